"""Runs an ONNX model that scores candidates."""

from __future__ import annotations

from typing import Any

# Everything that a model needs must be in memory before the process gives up its files.
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from spotplane_server.decisions.confined.model_checks import check
from spotplane_server.decisions.confined.protocol import COLUMNS, Rejected


class ModelEvaluator:
    """An uploaded model, ready to be asked."""

    def __init__(self, data: bytes) -> None:
        """Check and load a model.

        Raises:
            Rejected: It cannot be used.
        """
        try:
            model = onnx.load_model_from_string(data)
        except Exception as err:
            raise Rejected("the content is no ONNX model") from err
        check(model)
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as err:
            raise Rejected(f"not a valid model: {_first_line(err)}") from err
        self._names = ["score", "confidence"] if _has_confidence(model) else ["score"]
        self._session = _session(data)

    def answer(self, question: bytes) -> bytes:
        """Score candidates.

        Args:
            question: A row of float32, little-endian, for each candidate.

        Returns:
            A float32 for each candidate, and one for the confidence where the model has one.
        """
        features = np.frombuffer(question, dtype="<f4").reshape(-1, COLUMNS)
        outputs = self._session.run(self._names, {"features": features})
        score = np.asarray(outputs[0], dtype="<f4")
        if score.shape not in {(len(features),), (len(features), 1)}:
            raise Rejected(f"'score' has shape {list(score.shape)}, not [{len(features)}]")
        values = [score.ravel()]
        if len(outputs) > 1:
            confidence = np.asarray(outputs[1], dtype="<f4")
            if confidence.size != 1:
                raise Rejected(f"'confidence' has shape {list(confidence.shape)}, not [1]")
            values.append(confidence.ravel())
        return b"".join(value.tobytes() for value in values)


def warm_up() -> None:
    """Run a trivial model, so that the libraries read from files what they read at first use."""
    one, other = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab")
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [one], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    _session(model.SerializeToString()).run(None, {"a": np.zeros(1, np.float32)})


def _session(data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The fallback would try again and print why.
    return onnxruntime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def _has_confidence(model: Any) -> bool:
    """Check a model's inputs and outputs; return whether it has an output `confidence`."""
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constant]
    if [value.name for value in inputs] != ["features"]:
        raise Rejected("must have one input, 'features'")
    tensor = inputs[0].type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(shape) != 2 or shape[1] != COLUMNS:
        raise Rejected(f"'features' must be float32 [candidates, {COLUMNS}]")
    if shape[0] is not None:
        raise Rejected("the first dimension of 'features' must be free, the number of candidates")
    outputs = {value.name for value in model.graph.output}
    if "score" not in outputs:
        raise Rejected("must have an output 'score'")
    return "confidence" in outputs


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [""])[0]
