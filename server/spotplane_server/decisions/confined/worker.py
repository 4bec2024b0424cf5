"""Starts, asks and ends the confined process of one upload."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import structlog

from spotplane_server.decisions.confined.protocol import (
    HEADER,
    KIND_ANSWER,
    KIND_DOCUMENT,
    KIND_FAULT,
    KIND_LOADED,
    KIND_QUESTION,
    MAX_ANSWER_BYTES,
    Format,
    Rejected,
)
from spotplane_server.decisions.validation import EngineFault

# From the start of the process: importing, confining and loading. Libraries of models take a
# second, several on a machine under load.
LOAD_SECONDS: Final[dict[Format, float]] = {"onnx": 30.0, "cel": 10.0}
PROBE_SECONDS: Final = 10.0
# For one answer. A rule set is limited to 10 ms of a processor between its conditions, so only a
# single condition that is out of bounds takes longer, or a machine under load.
ANSWER_SECONDS: Final[dict[Format, float]] = {"onnx": 0.5, "cel": 1.0}
# A process is replaced after so much time spent answering, half of the processor time it may use.
REPLACE_AFTER_SECONDS: Final = 300.0

_READ_BYTES: Final = 64 * 1024
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")
# Each of these threads would stay outside of what Landlock denies to the thread that asks for it.
_SINGLE_THREADED: Final = {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}


log = structlog.get_logger(__name__)


class WorkerLost(EngineFault):
    """The process ended, was late, or broke the protocol; it must be closed."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a confined process could still do on this machine.

    Attributes:
        by_kernel: Whether Landlock or seccomp is in force.
        allowed: What succeeded of what must fail; empty when confinement works.
    """

    by_kernel: bool
    allowed: tuple[str, ...]

    @property
    def confined(self) -> bool:
        """Whether uploads are evaluated as they should be."""
        return self.by_kernel and not self.allowed


@cache
def probe() -> Probe:
    """Confine a process and try what must fail there; once in the life of this process.

    Raises:
        WorkerLost: The process did not report.
    """
    process = _Process("probe")
    try:
        _, body = next(process.converse(b"", 1, PROBE_SECONDS))
    finally:
        process.end()
    found = json.loads(body)
    result = Probe(found["seccomp"] or found["landlock"] > 0, tuple(found["allowed"]))
    if not result.confined:
        log.warning("uploads_not_confined", **found)
    return result


class Worker:
    """A confined process that has loaded one upload. Used by one thread at a time.

    Args:
        kind: Format of the upload.
        document: The upload.

    Raises:
        Rejected: It cannot be used.
    """

    def __init__(self, kind: Format, document: bytes) -> None:
        self._kind = kind
        self._process = _Process(kind)
        self.busy_seconds = 0.0
        try:
            message = HEADER.pack(len(document), KIND_DOCUMENT) + document
            answered, body = next(self._process.converse(message, 1, LOAD_SECONDS[kind]))
        except WorkerLost as err:
            self.close()
            raise Rejected(f"does not load: {err}") from err
        if answered != KIND_LOADED:
            self.close()
            raise Rejected(body.decode(errors="replace"))

    def ask(self, questions: Sequence[bytes]) -> Iterator[bytes | EngineFault]:
        """Send questions at once and yield the answers as they come, in their order.

        Raises:
            WorkerLost: The process ended, or an answer is late. Also when not all answers were
                taken, the worker must be closed.
        """
        started = time.monotonic()
        message = b"".join(HEADER.pack(len(one), KIND_QUESTION) + one for one in questions)
        seconds = ANSWER_SECONDS[self._kind]
        for kind, body in self._process.converse(message, len(questions), seconds):
            self.busy_seconds += time.monotonic() - started
            if kind == KIND_ANSWER:
                yield body
            elif kind == KIND_FAULT:
                yield EngineFault(body.decode(errors="replace"))
            else:
                raise WorkerLost("answered with an unknown message")
            started = time.monotonic()

    def interrupt(self) -> None:
        """Kill the process; the thread that waits for an answer gets a fault."""
        self._process.kill()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.end()


class _Process:
    """A process and its two pipes, neither of which ever blocks the caller beyond a deadline."""

    def __init__(self, kind: Format | Literal["probe"]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spotplane_server.decisions.confined", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            # No secret of the server's environment is passed on.
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            | _SINGLE_THREADED,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        self._received = bytearray()

    def converse(self, data: bytes, count: int, seconds: float) -> Iterator[tuple[int, bytes]]:
        """Send data and yield the kinds and bodies of messages as they come.

        Args:
            data: Messages.
            count: Answers to wait for.
            seconds: For each of them.

        Raises:
            WorkerLost: The process ended, is late, or sends what is no message.
        """
        unsent = memoryview(data)
        for _ in range(count):
            deadline = time.monotonic() + seconds
            while (message := self._next_message()) is None:
                unsent = self._transfer(unsent, deadline)
            yield message

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process and close the pipes."""
        self._process.kill()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()

    def _transfer(self, unsent: memoryview, deadline: float) -> memoryview:
        """Wait for either pipe, and send or receive once; return what is still to be sent."""
        writers = [self._in] if unsent else []
        timeout = max(0.0, deadline - time.monotonic())
        try:
            readable, writable, _ = select.select([self._out], writers, [], timeout)
            if not readable and not writable:
                raise WorkerLost("took too long")
            if readable:
                self._receive()
            sent = os.write(self._in.fileno(), unsent[:_READ_BYTES]) if writable else 0
        except (OSError, ValueError) as err:  # a pipe is broken, or closed by another thread
            raise WorkerLost("its process ended; it may have needed too much memory") from err
        return unsent[sent:]

    def _receive(self) -> None:
        part = os.read(self._out.fileno(), _READ_BYTES)
        if not part:
            raise WorkerLost("its process ended; it may have needed too much memory")
        self._received += part

    def _next_message(self) -> tuple[int, bytes] | None:
        if len(self._received) < HEADER.size:
            return None
        length, kind = HEADER.unpack_from(self._received)
        if length > MAX_ANSWER_BYTES:
            raise WorkerLost("answered with an oversized message")
        end = HEADER.size + length
        if len(self._received) < end:
            return None
        body = bytes(self._received[HEADER.size : end])
        del self._received[:end]
        return kind, body
