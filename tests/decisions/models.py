"""Real ONNX models, built node by node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = [helper.make_opsetid("", 17)]


def _input(rows: Any = "candidates", columns: int = 13) -> Any:
    return helper.make_tensor_value_info("features", TensorProto.FLOAT, [rows, columns])


def _output(name: str = "score", shape: Any = ("candidates",)) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _weights(**weights: float) -> Any:
    columns = ["price", "on_demand_price", "ratio", "delta_1h", "delta_24h", "sigma_6h", "rank"]
    columns += ["risk", "interruptions_30d", "is_current", "is_spot", "hour", "weekday"]
    vector = np.array([weights.get(name, 0.0) for name in columns], dtype=np.float32)
    return numpy_helper.from_array(vector, "weights")


def linear(confidence: float | None = None, **weights: float) -> bytes:
    """Scores by weighed columns, e.g. ``linear(price=-1)`` for the cheapest."""
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["score"])]
    outputs = [_output()]
    constants = [_weights(**weights)]
    if confidence is not None:
        constants.append(numpy_helper.from_array(np.array([confidence], np.float32), "sure"))
        nodes.append(helper.make_node("Identity", ["sure"], ["confidence"]))
        outputs.append(_output("confidence", (1,)))
    return made(nodes, outputs, constants)


def made(
    nodes: list[Any],
    outputs: list[Any] | None = None,
    constants: list[Any] | None = None,
    *,
    inputs: list[Any] | None = None,
    opsets: list[Any] | None = None,
) -> bytes:
    """A model of a graph."""
    graph = helper.make_graph(
        nodes, "graph", inputs or [_input()], outputs or [_output()], initializer=constants or []
    )
    model = helper.make_model(graph, opset_imports=opsets or OPSETS, ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def narrow() -> bytes:
    """Takes 12 columns."""
    weights = numpy_helper.from_array(np.zeros(12, np.float32), "weights")
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["score"])]
    return made(nodes, constants=[weights], inputs=[_input(columns=12)])


def fixed() -> bytes:
    """Takes three candidates and no other number."""
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["score"])]
    return made(nodes, constants=[_weights()], inputs=[_input(rows=3)])


def misnamed() -> bytes:
    """Answers under another name."""
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["points"])]
    return made(nodes, [_output("points")], [_weights()])


def misshaped() -> bytes:
    """Answers one score for all."""
    nodes = [helper.make_node("ReduceSum", ["features"], ["score"], keepdims=0)]
    return made(nodes, [_output(shape=())])


def custom() -> bytes:
    """Has an operator of a domain of its own."""
    nodes = [helper.make_node("Shell", ["features"], ["score"], domain="evil.ops")]
    return made(nodes, opsets=[*OPSETS, helper.make_opsetid("evil.ops", 1)])


def external() -> bytes:
    """Keeps its weights in another file."""
    weights = _weights(price=-1)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["score"])]
    return made(nodes, constants=[weights])


def greedy(gib: int) -> bytes:
    """Needs so much memory as soon as there is more than one pool to choose from."""
    constants = [
        numpy_helper.from_array(np.array([gib * 2**28], np.int64), "size"),
        numpy_helper.from_array(np.array([4], np.int64), "four"),
        numpy_helper.from_array(np.array(0, np.int64), "zero"),
    ]
    constants.append(_weights(price=-1))
    big = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["size"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["added"], keepdims=0),
            helper.make_node("Add", ["plain", "added"], ["then_score"]),
        ],
        "big",
        [],
        [_output("then_score")],
    )
    small = helper.make_graph(
        [helper.make_node("Identity", ["plain"], ["else_score"])],
        "small",
        [],
        [_output("else_score")],
    )
    return made(_by_size(big, small), constants=constants)


def slow() -> bytes:
    """Never ends, practically, when there is more than one pool to choose from."""
    constants = [
        numpy_helper.from_array(np.array(2**40, np.int64), "rounds"),
        numpy_helper.from_array(np.array([4], np.int64), "four"),
        numpy_helper.from_array(np.array(0, np.int64), "zero"),
        numpy_helper.from_array(np.array(True), "yes"),
        _weights(price=-1),
    ]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Sin", ["carried"], ["carried_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            _output("carried"),
        ],
        [helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []), _output("carried_out")],
    )
    looping = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "yes", "plain"], ["then_score"], body=body)],
        "looping",
        [],
        [_output("then_score")],
    )
    small = helper.make_graph(
        [helper.make_node("Identity", ["plain"], ["else_score"])],
        "small",
        [],
        [_output("else_score")],
    )
    return made(_by_size(looping, small), constants=constants)


def _by_size(big: Any, small: Any) -> list[Any]:
    return [
        helper.make_node("MatMul", ["features", "weights"], ["plain"]),
        helper.make_node("Shape", ["features"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("GreaterOrEqual", ["rows", "four"], ["many"]),
        helper.make_node("Squeeze", ["many"], ["several"]),
        helper.make_node("If", ["several"], ["score"], then_branch=big, else_branch=small),
    ]


def check(data: bytes) -> None:
    """Hold a test's own model to the format."""
    onnx.checker.check_model(onnx.load_model_from_string(data))


def reading(location: str, count: int = 4) -> bytes:
    """Answers the greatest of the first bytes of a file as its confidence."""
    values = external_tensor(location, count)
    indices = numpy_helper.from_array(np.arange(count, dtype=np.int64), "indices")
    node = helper.make_node("Constant", [], ["content"])
    attribute = node.attribute.add()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.CopyFrom(
        onnx.SparseTensorProto(values=values, indices=indices, dims=[count])
    )
    nodes = [
        node,
        helper.make_node("Cast", ["content"], ["bytes"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["bytes"], ["confidence"], keepdims=1),
        helper.make_node("MatMul", ["features", "weights"], ["score"]),
    ]
    return made(nodes, [_output(), _output("confidence", (1,))], [_weights(price=-1)])


def external_tensor(location: str = "etc/passwd", count: int = 4) -> Any:
    """A tensor whose bytes are in a file."""
    tensor = TensorProto(
        name="values",
        data_type=TensorProto.UINT8,
        dims=[count],
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("length", str(count))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def carriers(tensor: Any) -> Iterator[tuple[str, Any]]:
    """A model for every path of fields by which a model can hold a tensor, with the tensor there.

    Paths visit a message type once, so that subgraphs are entered once.
    """
    for path in _paths(onnx.ModelProto.DESCRIPTOR, (onnx.ModelProto.DESCRIPTOR.name,)):
        model = onnx.ModelProto()
        holder: Any = model
        for field in path:
            value = getattr(holder, field.name)
            holder = value.add() if field.is_repeated else value
        holder.CopyFrom(tensor)
        yield ".".join(field.name for field in path), model


def _paths(kind: Any, visited: tuple[str, ...]) -> Iterator[list[Any]]:
    for field in kind.fields:
        inner = field.message_type
        if inner is None or inner.name in visited:
            continue
        if inner.name == "TensorProto":
            yield [field]
        for rest in _paths(inner, (*visited, inner.name)):
            yield [field, *rest]
