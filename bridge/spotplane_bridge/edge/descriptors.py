"""What the API's descriptors say about the edge: services, paths, streams."""

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
        streams_response: The RPC answers a stream.
    """

    service: str
    rpc: str
    verb: str
    template: str
    body: str
    streams_response: bool


@cache
def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """The API's descriptors with comments; they ship with the stubs."""
    packed = (files("spotplane") / "descriptors.binpb").read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(packed)


def bindings() -> list[Binding]:
    """Every annotated route, additional bindings included, in the order of the files."""
    return [
        found
        for file in descriptor_set().file
        for service in file.service
        for method in service.method
        for found in _bindings(f"{file.package}.{service.name}", method)
    ]


def stream_paths() -> list[str]:
    """Paths of the RPCs that stream requests or responses, sorted."""
    found = [
        f"/{file.package}.{service.name}/{method.name}"
        for file in descriptor_set().file
        for service in file.service
        for method in service.method
        if method.client_streaming or method.server_streaming
    ]
    return sorted({*found, *_FOREIGN_STREAMS})


def annotated_services() -> list[str]:
    """Full names of the services with at least one route, sorted."""
    return sorted({binding.service for binding in bindings()})


def transcoded_prefixes() -> list[str]:
    """Path prefixes of whole segments that the transcoder serves, sorted.

    A template outside the owned prefixes contributes its literal beginning.
    """
    outside = {
        _literal_beginning(binding.template)
        for binding in bindings()
        if not binding.template.startswith(tuple(f"{owned}/" for owned in OWNED_PREFIXES))
    }
    return sorted({*OWNED_PREFIXES, *outside})


def edge_descriptors() -> bytes:
    """The descriptor set as Envoy needs it.

    Without comments, which it never reads, and with the error detail types, without which it
    cannot print a `google.rpc.Status` that carries them.
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
    http: Any = annotations_pb2.http  # its stub does not say what it extends
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
