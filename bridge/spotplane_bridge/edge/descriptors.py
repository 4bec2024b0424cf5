"""Services, paths and streams of the API, read from its descriptors for the edge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from google.api import annotations_pb2, http_pb2
from google.protobuf import any_pb2, descriptor_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

# Everything below these belongs to the transcoder, so that an unknown path is its 404.
OWNED_PREFIXES: Final = ("/admin", "/v1")
_FOREIGN_STREAMS: Final = (
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_VERBS: Final = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Binding:
    """One HTTP route of one RPC.

    Attributes:
        service: Full name, ``spotplane.v1.TenantService``.
        rpc: The method's name.
        verb: HTTP method in upper case.
        template: The path template, ``/admin/tenants/{id}``.
        body: ``*``, a field's name, or empty when the body is not read.
        streams_response: Whether the RPC streams its response.
    """

    service: str
    rpc: str
    verb: str
    template: str
    body: str
    streams_response: bool


@cache
def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """Return the API's descriptors with comments; they ship with the stubs."""
    packed = (files("spotplane") / "descriptors.binpb").read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(packed)


def bindings() -> list[Binding]:
    """Return every annotated route, additional bindings included, in the order of the files."""
    return [
        found
        for file in descriptor_set().file
        for service in file.service
        for method in service.method
        for found in _bindings(f"{file.package}.{service.name}", method)
    ]


def stream_paths() -> list[str]:
    """Return the paths of the RPCs that stream requests or responses, sorted."""
    found = [
        f"/{file.package}.{service.name}/{method.name}"
        for file in descriptor_set().file
        for service in file.service
        for method in service.method
        if method.client_streaming or method.server_streaming
    ]
    return sorted({*found, *_FOREIGN_STREAMS})


def annotated_services() -> list[str]:
    """Return the full names of the services with at least one route, sorted."""
    return sorted({binding.service for binding in bindings()})


def transcoded_prefixes() -> list[str]:
    """Return the path prefixes (whole segments) that the transcoder serves, sorted.

    A template outside the owned prefixes contributes its literal beginning.
    """
    outside = {
        _literal_beginning(binding.template)
        for binding in bindings()
        if not binding.template.startswith(tuple(f"{owned}/" for owned in OWNED_PREFIXES))
    }
    return sorted({*OWNED_PREFIXES, *outside})


def edge_descriptors() -> bytes:
    """Return the descriptor set that Envoy needs.

    It omits the comments, which Envoy never reads, and adds the error detail types, without which
    Envoy cannot serialize a `google.rpc.Status` that carries them.
    """
    slim = descriptor_pb2.FileDescriptorSet()
    slim.CopyFrom(descriptor_set())
    for file in slim.file:
        file.ClearField("source_code_info")
    # Each file comes after its imports.
    for module in (any_pb2, duration_pb2, status_pb2, error_details_pb2):
        if module.DESCRIPTOR.name not in {file.name for file in slim.file}:
            module.DESCRIPTOR.CopyToProto(slim.file.add())
    return slim.SerializeToString(deterministic=True)


def _bindings(service: str, method: descriptor_pb2.MethodDescriptorProto) -> Iterator[Binding]:
    http: Any = annotations_pb2.http  # the stub does not declare the extended type
    if not method.options.HasExtension(http):
        return
    rule: http_pb2.HttpRule = method.options.Extensions[http]
    for each in (rule, *rule.additional_bindings):
        verb, template = _pattern(each)
        yield Binding(service, method.name, verb, template, each.body, method.server_streaming)


def _pattern(rule: http_pb2.HttpRule) -> tuple[str, str]:
    kind = rule.WhichOneof("pattern")
    if kind == "custom":
        return rule.custom.kind, rule.custom.path
    for verb in _VERBS:
        if kind == verb:
            return verb.upper(), getattr(rule, verb)
    raise ValueError(f"an HTTP rule without a pattern: {rule}")


def _literal_beginning(template: str) -> str:
    return template.partition("{")[0].rstrip("/")
