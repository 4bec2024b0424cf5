"""The comments of the API files, read from the descriptor set that `make proto` writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

from google.protobuf import descriptor_pb2

_PACKAGE: Final = "spotplane.v1"
_FILE: Final = descriptor_pb2.FileDescriptorProto
_MESSAGE: Final = descriptor_pb2.DescriptorProto
_ENUM: Final = descriptor_pb2.EnumDescriptorProto
_SERVICE: Final = descriptor_pb2.ServiceDescriptorProto


def load_comments() -> dict[str, str]:
    """Return the comments by full name of the element; an empty line separates paragraphs."""
    data = (files("spotplane") / "descriptors.binpb").read_bytes()
    comments: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        if file.package != _PACKAGE:
            continue
        names = dict(_names(file))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name is not None and location.leading_comments:
                comments[name] = _unwrap(location.leading_comments)
    return comments


def _unwrap(comment: str) -> str:
    paragraphs = re.split(r"\n\s*\n", comment.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _names(
    file: descriptor_pb2.FileDescriptorProto,
) -> Iterator[tuple[tuple[int, ...], str]]:
    for index, message in enumerate(file.message_type):
        path = (_FILE.MESSAGE_TYPE_FIELD_NUMBER, index)
        yield from _message_names(message, path, file.package)
    for index, enum in enumerate(file.enum_type):
        yield from _enum_names(enum, (_FILE.ENUM_TYPE_FIELD_NUMBER, index), file.package)
    for index, service in enumerate(file.service):
        path, name = (_FILE.SERVICE_FIELD_NUMBER, index), f"{file.package}.{service.name}"
        yield path, name
        for at, method in enumerate(service.method):
            yield (*path, _SERVICE.METHOD_FIELD_NUMBER, at), f"{name}.{method.name}"


def _message_names(
    message: descriptor_pb2.DescriptorProto, path: tuple[int, ...], scope: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{scope}.{message.name}"
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, _MESSAGE.FIELD_FIELD_NUMBER, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _message_names(nested, (*path, _MESSAGE.NESTED_TYPE_FIELD_NUMBER, index), name)
    for index, enum in enumerate(message.enum_type):
        yield from _enum_names(enum, (*path, _MESSAGE.ENUM_TYPE_FIELD_NUMBER, index), name)


def _enum_names(
    enum: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...], scope: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{scope}.{enum.name}"
    yield path, name
    for index, value in enumerate(enum.value):
        yield (*path, _ENUM.VALUE_FIELD_NUMBER, index), f"{name}.{value.name}"
