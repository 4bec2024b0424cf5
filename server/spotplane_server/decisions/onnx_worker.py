"""A process that runs one uploaded model: its memory is bounded, and it can be ended at any time.

Spoken to through its pipes by `engines/onnx.py`: a message is four bytes of length, a byte of kind,
and the rest. The first message is the model; then each is a batch of features. It ends when its
input does. It inherits no secrets and opens no files: a model is data.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

HEADER: Final = struct.Struct(">IB")
KIND_MODEL: Final = 1
KIND_RUN: Final = 2
KIND_TERMS: Final = 3
KIND_ANSWER: Final = 4
KIND_FAULT: Final = 5

MAX_MESSAGE: Final = 128 * 1024 * 1024
MEMORY_BYTES: Final = 512 * 1024 * 1024
DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
COLUMNS: Final = 13


class Refused(Exception):
    """The model cannot be used; the message says why."""


def main() -> None:
    """Serve the parent until it closes the pipe."""
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    kind, body = _receive(incoming)
    if kind != KIND_MODEL:
        return
    try:
        session, terms = _load(body)
    except Refused as err:
        _send(outgoing, KIND_FAULT, str(err).encode())
        return
    except Exception as err:  # noqa: BLE001 - whatever a library says of a model is its fault
        _send(outgoing, KIND_FAULT, f"{type(err).__name__}: {_first_line(err)}".encode())
        return
    del body
    _send(outgoing, KIND_TERMS, json.dumps(terms).encode())
    while True:
        kind, body = _receive(incoming)
        if kind != KIND_RUN:
            return
        try:
            _send(outgoing, KIND_ANSWER, _run(session, body, terms["confidence"]))
        except Exception as err:  # noqa: BLE001 - as above
            _send(outgoing, KIND_FAULT, f"{type(err).__name__}: {_first_line(err)}".encode())


def _load(data: bytes) -> tuple[Any, dict[str, Any]]:
    import onnx  # noqa: PLC0415 - the limit below is on top of what the libraries take
    import onnxruntime  # noqa: PLC0415

    _limit_memory()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as err:
        raise Refused("the content is no ONNX model") from err
    _refuse_what_is_not_data(onnx, model)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as err:
        raise Refused(f"not a valid model: {_first_line(err)}") from err
    confidence = _terms(onnx, model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session, {"confidence": confidence, "producer": model.producer_name[:64]}


def _refuse_what_is_not_data(onnx: Any, model: Any) -> None:
    for opset in model.opset_import:
        if opset.domain not in DOMAINS:
            raise Refused(f"operators of domain {opset.domain[:64]!r} are not allowed")
    if model.functions:
        raise Refused("functions of the model's own are not allowed; export it with them inlined")
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.domain not in DOMAINS:
                raise Refused(f"custom operator {node.domain[:64]}.{node.op_type[:64]}")
        tensors = [*graph.initializer, *(t.values for t in graph.sparse_initializer)]
        tensors += [a.t for n in graph.node for a in n.attribute if a.HasField("t")]
        if any(t.data_location == onnx.TensorProto.EXTERNAL or t.external_data for t in tensors):
            raise Refused("external data is not allowed; save the model as one file")


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _terms(onnx: Any, model: Any) -> bool:
    """Hold the model to its contract; whether it answers its confidence."""
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constant]
    if [value.name for value in inputs] != ["features"]:
        raise Refused("must have one input, 'features'")
    tensor = inputs[0].type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(shape) != 2 or shape[1] != COLUMNS:
        raise Refused(f"'features' must be float32 [candidates, {COLUMNS}]")
    if shape[0] is not None:
        raise Refused("the first dimension of 'features' must be free, the number of candidates")
    outputs = {value.name for value in model.graph.output}
    if "score" not in outputs:
        raise Refused("must have an output 'score'")
    return "confidence" in outputs


def _run(session: Any, body: bytes, confident: bool) -> bytes:
    import numpy as np  # noqa: PLC0415 - loaded with the libraries above

    features = np.frombuffer(body, dtype="<f4").reshape(-1, COLUMNS)
    names = ["score", "confidence"] if confident else ["score"]
    answers = session.run(names, {"features": features})
    score = np.asarray(answers[0], dtype="<f4")
    if score.shape not in {(len(features),), (len(features), 1)}:
        raise Refused(f"'score' has shape {list(score.shape)}, not [{len(features)}]")
    parts = [score.ravel()]
    if confident:
        confidence = np.asarray(answers[1], dtype="<f4")
        if confidence.size != 1:
            raise Refused(f"'confidence' has shape {list(confidence.shape)}, not [1]")
        parts.append(confidence.ravel())
    return b"".join(part.tobytes() for part in parts)


def _limit_memory() -> None:
    """Allow so much data besides what the libraries have taken; Linux counts it exactly."""
    if sys.platform != "linux":
        return
    status = Path("/proc/self/status").read_text(encoding="ascii")
    taken = next(int(s.split()[1]) for s in status.splitlines() if s.startswith("VmData:"))
    limit = taken * 1024 + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [""])[0][:300]


def _receive(pipe: BinaryIO) -> tuple[int, bytes]:
    header = pipe.read(HEADER.size)
    if len(header) < HEADER.size:
        return 0, b""
    length, kind = HEADER.unpack(header)
    body = pipe.read(length) if length <= MAX_MESSAGE else b""
    return (kind, body) if len(body) == length else (0, b"")


def _send(pipe: BinaryIO, kind: int, body: bytes) -> None:
    pipe.write(HEADER.pack(len(body), kind) + body)
    pipe.flush()


if __name__ == "__main__":
    main()
