"""Rejects models that are more than data: external data, custom operators, unreadable parts.

The model is walked by its protobuf descriptors, so that a field that a later version of ONNX adds
is visited without a change here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from spotplane_server.decisions.confined.protocol import Rejected

DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
# A dense tensor, also one that a sparse tensor stands for. The process may use 512 MiB.
MAX_TENSOR_ELEMENTS: Final = 64 * 1024 * 1024
# Deeper subgraphs would exhaust the stack of the libraries that read them.
MAX_DEPTH: Final = 64


def check(model: Any) -> None:
    """Reject a model that is more than data.

    Args:
        model: A parsed ``onnx.ModelProto``.

    Raises:
        Rejected: Says what is not allowed.
    """
    for opset in model.opset_import:
        if opset.domain not in DOMAINS:
            raise Rejected(f"operators of domain {opset.domain[:64]!r} are not allowed")
    for message in _walk(model, 0):
        if len(UnknownFieldSet(message)):
            raise Rejected(f"{message.DESCRIPTOR.name} has fields that are not part of ONNX")
        _check_message(message)
    if model.functions:
        raise Rejected("functions of the model's own are not allowed; export it with them inlined")


def _check_message(message: Any) -> None:
    name = message.DESCRIPTOR.name
    if name == "TensorProto":
        if message.data_location == message.EXTERNAL or message.external_data:
            raise Rejected("external data is not allowed; save the model as one file")
        _check_shape(message.dims)
    elif name == "SparseTensorProto":
        _check_shape(message.dims)
    elif name == "NodeProto" and message.domain not in DOMAINS:
        raise Rejected(f"custom operator {message.domain[:64]}.{message.op_type[:64]}")


def _check_shape(dims: Any) -> None:
    if any(size < 0 for size in dims) or math.prod(dims) > MAX_TENSOR_ELEMENTS:
        raise Rejected(f"a tensor may have at most {MAX_TENSOR_ELEMENTS} elements")


def _walk(message: Message, depth: int) -> Iterator[Message]:
    """The message and all messages in it, whatever their field."""
    if depth > MAX_DEPTH:
        raise Rejected(f"messages may be nested at most {MAX_DEPTH} deep")
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else [value]:
            yield from _walk(inner, depth + 1)
