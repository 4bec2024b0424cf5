"""The confined process: `python -m spotplane_server.decisions.confined onnx|cel|probe`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import BinaryIO, Final, Protocol, cast

from spotplane_server.decisions.confined import sandbox
from spotplane_server.decisions.confined.protocol import (
    CPU_SECONDS,
    HEADER,
    KIND_ANSWER,
    KIND_DOCUMENT,
    KIND_FAULT,
    KIND_LOADED,
    KIND_QUESTION,
    MAX_DOCUMENT_BYTES,
    MAX_FAULT_CHARS,
    MEMORY_BYTES,
    Format,
    Rejected,
)


class Evaluator(Protocol):
    """A loaded upload."""

    def answer(self, question: bytes) -> bytes:
        """Answer one question; raising is a fault of the upload."""
        ...


def main() -> None:
    """Serve the parent until it closes the pipe."""
    name, outgoing = sys.argv[1], _private_output()
    if name == "probe":
        confinement = sandbox.confine(MEMORY_BYTES["cel"], CPU_SECONDS)
        found = {**asdict(confinement), "allowed": sandbox.list_allowed()}
        _send(outgoing, KIND_LOADED, json.dumps(found).encode())
        return
    load = _LOADERS[name]()
    sandbox.confine(MEMORY_BYTES[cast(Format, name)], CPU_SECONDS)
    _serve(load, sys.stdin.buffer, outgoing)


def _private_output() -> BinaryIO:
    """The pipe to the parent, which is no longer the standard output: libraries print there."""
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return outgoing


def _serve(load: Callable[[bytes], Evaluator], incoming: BinaryIO, outgoing: BinaryIO) -> None:
    kind, body = _receive(incoming)
    if kind != KIND_DOCUMENT:
        return
    try:
        evaluator = load(body)
    except Exception as err:  # noqa: BLE001 - an upload can make its library raise anything
        _send(outgoing, KIND_FAULT, _fault(err))
        return
    del body
    _send(outgoing, KIND_LOADED, b"")
    while True:
        kind, question = _receive(incoming)
        if kind != KIND_QUESTION:
            return
        try:
            _send(outgoing, KIND_ANSWER, evaluator.answer(question))
        except MemoryError:
            return  # the parent counts the end of the process as the fault, and starts another
        except Exception as err:  # noqa: BLE001 - as above
            _send(outgoing, KIND_FAULT, _fault(err))


def _load_models() -> Callable[[bytes], Evaluator]:
    from spotplane_server.decisions.confined import models  # noqa: PLC0415 - half a second

    models.warm_up()
    return models.ModelEvaluator


def _load_rule_sets() -> Callable[[bytes], Evaluator]:
    from spotplane_server.decisions.confined import rule_sets  # noqa: PLC0415 - one of two

    return rule_sets.RulesEvaluator


_LOADERS: Final = {"onnx": _load_models, "cel": _load_rule_sets}


def _fault(err: Exception) -> bytes:
    text = (str(err).strip().splitlines() or [""])[0]
    if not isinstance(err, Rejected):
        text = f"{type(err).__name__}: {text}"
    return text[:MAX_FAULT_CHARS].encode()


def _receive(pipe: BinaryIO) -> tuple[int, bytes]:
    """The next message; kind 0 when the parent has closed the pipe."""
    header = pipe.read(HEADER.size)
    if len(header) < HEADER.size:
        return 0, b""
    length, kind = HEADER.unpack(header)
    body = pipe.read(length) if length <= MAX_DOCUMENT_BYTES else b""
    return (kind, body) if len(body) == length else (0, b"")


def _send(pipe: BinaryIO, kind: int, body: bytes) -> None:
    pipe.write(HEADER.pack(len(body), kind) + body)
    pipe.flush()


if __name__ == "__main__":
    main()
