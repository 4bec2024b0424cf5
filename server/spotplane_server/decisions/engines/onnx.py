"""Uploaded models: a process of its own runs each, so that none can take memory, time or files."""

from __future__ import annotations

import array
import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from typing import Final

from spotplane_server.decisions import features, onnx_worker, places
from spotplane_server.decisions.checking import EngineFault
from spotplane_server.decisions.engine import Decision, Snapshot

LOAD_SECONDS: Final = 30.0
RUN_SECONDS: Final = 0.5
# What a model is asked first: a pool like many.
TRIAL: Final = [0.4, 1.0, 0.4, 0.0, 0.0, 0.01, 1.0, 0.05, 0.0, 1.0, 1.0, 12.0, 0.0]
# Without an output `confidence`.
CONFIDENCE: Final = 0.7
# All that the process is told of its surroundings.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT")


class ModelInvalid(Exception):
    """A model that cannot be used; the message says why."""


class OnnxModel:
    """An uploaded model, scoring candidates; the one of the highest score wins.

    It is called from one thread at a time. Its process is started by `load`, and again when it was
    ended for taking too long.
    """

    hedges = False

    def __init__(self, name: str, version: str, data: bytes) -> None:
        self.name = name
        self.version = version
        self._data = data
        self._worker: _Worker | None = None
        self._lock = threading.Lock()

    def load(self) -> None:
        """Start the process and have it check the model.

        Raises:
            ModelInvalid: It is refused, or does not answer a first question as it should.
        """
        with self._lock:
            if self._worker is None:
                self._worker = _Worker(self._data)
        try:
            self._scores([TRIAL] * 3)
        except EngineFault as err:
            self.close()
            raise ModelInvalid(str(err)) from err

    def decide(self, snapshot: Snapshot) -> Decision:
        """Answer for a snapshot.

        Raises:
            EngineFault: The model failed, took over 500 ms, or needed too much memory.
        """
        if places.current_price(snapshot) is None:
            return places.stay(snapshot, 0.5, "the current pool has no fresh price")
        candidates, rows = features.rows(snapshot)
        scores, confidence = self._scores(rows)
        if not 0 <= confidence <= 1:
            raise EngineFault("confidence must be between 0 and 1")
        named = {
            (pool.id if pool else places.ON_DEMAND): score
            for pool, score in zip(candidates[1:], scores[1:], strict=True)
        }
        best = max(range(len(scores)), key=lambda index: (scores[index], -index))
        explained = {"stay": scores[0], **named}
        pool = candidates[best]
        here = snapshot.pool_id if snapshot.mode == "spot" else None
        if best == 0 or (pool.id if pool else None) == here:
            return places.stay(snapshot, confidence, "scored best: stay", scores=explained)
        there = pool.id if pool else places.ON_DEMAND
        return places.switch(
            snapshot, pool, confidence, f"scored best: {there}", "savings", scores=explained
        )

    def close(self) -> None:
        """End the process."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _scores(self, rows: list[list[float]]) -> tuple[list[float], float]:
        with self._lock:
            if self._worker is None:
                try:
                    self._worker = _Worker(self._data)
                except ModelInvalid as err:
                    raise EngineFault(f"did not load again: {err}") from err
            worker = self._worker
        try:
            return worker.run(rows)
        except EngineFault:
            if worker.gone:
                self.close()
            raise


class _Worker:
    """The process of one model, and the two ends of its pipes."""

    def __init__(self, data: bytes) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", onnx_worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,
        )
        self.gone = False
        try:
            kind, body = self._ask(onnx_worker.KIND_MODEL, data, LOAD_SECONDS)
        except EngineFault as err:
            self.close()
            raise ModelInvalid(f"does not load: {err}") from err
        if kind != onnx_worker.KIND_TERMS:
            self.close()
            raise ModelInvalid(body.decode(errors="replace"))

    def run(self, rows: list[list[float]]) -> tuple[list[float], float]:
        """Scores of as many candidates as rows, and the confidence."""
        flat = array.array("f", [value for row in rows for value in row])
        if sys.byteorder == "big":
            flat.byteswap()
        kind, body = self._ask(onnx_worker.KIND_RUN, flat.tobytes(), RUN_SECONDS)
        if kind != onnx_worker.KIND_ANSWER:
            raise EngineFault(body.decode(errors="replace"))
        values = array.array("f")
        values.frombytes(body)
        if sys.byteorder == "big":
            values.byteswap()
        scores = [float(value) for value in values[: len(rows)]]
        if any(score != score or abs(score) == float("inf") for score in scores):  # noqa: PLR0124 - NaN
            raise EngineFault("a score is not a finite number")
        confidence = float(values[len(rows)]) if len(values) > len(rows) else CONFIDENCE
        return scores, confidence

    def close(self) -> None:
        """End the process, whatever it does."""
        self.gone = True
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not sent is lost with the process
                    pipe.close()
        self._process.wait()

    def _ask(self, kind: int, body: bytes, seconds: float) -> tuple[int, bytes]:
        assert self._process.stdin is not None
        deadline = time.monotonic() + seconds
        try:
            self._process.stdin.write(onnx_worker.HEADER.pack(len(body), kind) + body)
            self._process.stdin.flush()
            length, answer = onnx_worker.HEADER.unpack(
                self._read(onnx_worker.HEADER.size, deadline)
            )
            return answer, self._read(length, deadline)
        except (EngineFault, OSError) as err:
            self.gone = True
            if isinstance(err, EngineFault):
                raise
            raise EngineFault("its process ended") from err

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        pipe, found = self._process.stdout.fileno(), bytearray()
        while len(found) < size:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise EngineFault("took too long")
            part = os.read(pipe, size - len(found))
            if not part:
                raise EngineFault("its process ended; it may have needed too much memory")
            found += part
        return bytes(found)
