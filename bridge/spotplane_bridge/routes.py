"""Routes of annotated RPCs, read from the API's `google.api.http` options, and the router."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote

import spotplane.v1
from google.api import annotations_pb2, http_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

T = TypeVar("T")

_VARIABLE: Final = re.compile(r"\{([a-z0-9_]+)(?:=(\*\*?))?\}")
_LITERAL: Final = re.compile(r"[A-Za-z0-9._~-]+")
_VERBS: Final = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One binding of an RPC to a method and a path.

    Attributes:
        method: HTTP method, upper-case.
        template: Path with its variables, e.g. `/admin/tenants/{id}`.
        variables: Names of the request's fields in the path, left to right.
        body: `*` when the body is the request, a field's name when it is that field, or empty.
        rpc: The RPC in the form of gRPC's `:path`.
        descriptor: The RPC's descriptor.
        request_class: Class of the request.
        response_class: Class of the response.
        binding: 0 for the first binding of the RPC, counting up for additional ones.
    """

    method: str
    template: str
    variables: tuple[str, ...]
    body: str
    rpc: str
    descriptor: MethodDescriptor
    request_class: type[Message]
    response_class: type[Message]
    binding: int

    @property
    def service(self) -> str:
        """Name of the service, without its package."""
        return str(self.descriptor.containing_service.name)

    @property
    def server_streaming(self) -> bool:
        """Whether the RPC streams its response."""
        return bool(self.descriptor.server_streaming)

    @property
    def is_raw(self) -> bool:
        """Whether the RPC builds the body itself, as `google.api.HttpBody`."""
        return bool(self.descriptor.output_type.full_name == "google.api.HttpBody")

    @property
    def is_analytics(self) -> bool:
        """Whether this is a read over usage, which has a longer deadline."""
        return self.method == "GET" and self.service == "UsageService"


def load_services() -> list[ServiceDescriptor]:
    """Return every service of the API, by full name."""
    services: list[ServiceDescriptor] = []
    for module in pkgutil.iter_modules(spotplane.v1.__path__, "spotplane.v1."):
        if module.name.endswith("_pb2"):
            file: Any = importlib.import_module(module.name).DESCRIPTOR
            services.extend(file.services_by_name.values())
    return sorted(services, key=lambda service: str(service.full_name))


def load_routes(services: Iterable[ServiceDescriptor] | None = None) -> list[Route]:
    """Return every route of the given services, or of the whole API, in the order of their files.

    Raises:
        ValueError: An annotation uses a feature that this bridge cannot serve.
    """
    chosen = load_services() if services is None else services
    return [
        route for service in chosen for method in service.methods for route in _bindings(method)
    ]


def _bindings(method: MethodDescriptor) -> Iterator[Route]:
    options = method.GetOptions()
    # The stubs of the annotations declare the extension with another type than it has.
    extension: Any = annotations_pb2.http
    if not options.HasExtension(extension):
        return
    rule: http_pb2.HttpRule = options.Extensions[extension]
    if method.client_streaming:
        raise ValueError(f"{method.full_name}: a client stream cannot be a REST route")
    for number, binding in enumerate((rule, *rule.additional_bindings)):
        yield _route(method, binding, number)


def _route(method: MethodDescriptor, rule: http_pb2.HttpRule, number: int) -> Route:
    verb = rule.WhichOneof("pattern")
    if verb not in _VERBS or rule.response_body:
        raise ValueError(f"{method.full_name}: only get, put, post, delete and patch are served")
    template = getattr(rule, verb)
    variables = tuple(name for name, _ in _VARIABLE.findall(template))
    fields = method.input_type.fields_by_name
    for name in (*variables, *({rule.body} - {"*", ""})):
        if name not in fields:
            raise ValueError(f"{method.full_name}: the request has no field {name}")
    return Route(
        method=verb.upper(),
        template=template,
        variables=variables,
        body=rule.body,
        rpc=f"/{method.containing_service.full_name}/{method.name}",
        descriptor=method,
        request_class=message_factory.GetMessageClass(method.input_type),
        response_class=message_factory.GetMessageClass(method.output_type),
        binding=number,
    )


@dataclass(slots=True)
class _Node(Generic[T]):
    """One node of the tree of path segments."""

    literals: dict[str, _Node[T]] = field(default_factory=dict)
    variable: _Node[T] | None = None
    # Targets by method of paths that end here, and of paths with a `**` for the rest.
    ends: dict[str, T] = field(default_factory=dict)
    rest: dict[str, T] = field(default_factory=dict)


class Router(Generic[T]):
    """Finds the target of a method and a path. Literal segments win over variables."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, method: str, template: str, target: T) -> None:
        """Add a target.

        Raises:
            ValueError: The template is malformed, or its shape exists already for this method.
        """
        node = self._root
        segments = template.removeprefix("/").split("/")
        for position, segment in enumerate(segments):
            variable = _VARIABLE.fullmatch(segment)
            if variable is None:
                if template != "/" and not (template[0] == "/" and _LITERAL.fullmatch(segment)):
                    raise ValueError(f"cannot serve the path {template}")
                node = node.literals.setdefault(segment, _Node())
            elif variable[2] == "**":
                if position != len(segments) - 1:
                    raise ValueError(f"{template}: ** must be the last segment")
                _take(node.rest, method, target, template)
                return
            else:
                node.variable = node.variable or _Node()
                node = node.variable
        _take(node.ends, method, target, template)

    def find(self, method: str, path: str) -> tuple[T, list[str]] | None:
        """Return the target and the values of its variables, decoded; None when there is none.

        Args:
            method: HTTP method, upper-case.
            path: Path as it was sent, without the query.
        """
        for targets, values in self._matches(path):
            if method in targets:
                return targets[method], values
        return None

    def allowed(self, path: str) -> list[str]:
        """Return the methods of the path, sorted; empty when there is no such path."""
        return sorted({method for targets, _ in self._matches(path) for method in targets})

    def _matches(self, path: str) -> Iterator[tuple[dict[str, T], list[str]]]:
        segments = path.removeprefix("/").split("/")
        if "" in segments and path != "/":
            # No route has an empty segment, and Envoy does not merge slashes either.
            return iter(())
        if "%" in path:
            segments = [unquote(segment) for segment in segments]
        return _walk(self._root, segments, 0, [])


def _take(targets: dict[str, T], method: str, target: T, template: str) -> None:
    if method in targets:
        raise ValueError(f"{method} {template} is taken by another route of the same shape")
    targets[method] = target


def _walk(
    node: _Node[T], segments: list[str], at: int, values: list[str]
) -> Iterator[tuple[dict[str, T], list[str]]]:
    """Yield the nodes that match the path, the most literal first."""
    if at == len(segments):
        if node.ends:
            yield node.ends, values
        return
    segment = segments[at]
    literal = node.literals.get(segment)
    if literal is not None:
        yield from _walk(literal, segments, at + 1, values)
    if node.variable is not None and segment:
        yield from _walk(node.variable, segments, at + 1, [*values, segment])
    if node.rest and any(segments[at:]):
        yield node.rest, [*values, "/".join(segments[at:])]
