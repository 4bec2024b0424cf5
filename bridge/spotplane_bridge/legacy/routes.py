"""Declarations of legacy routes: request members, RPC and response shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from spotplane_bridge.body_limits import SMALL_BYTES
from spotplane_bridge.legacy.exports import Csv
from spotplane_bridge.legacy.requests import Incoming, Parameter, as_parameter
from spotplane_bridge.legacy.response_shapes import Array, Either, Shape
from spotplane_bridge.legacy.sse import Events
from spotplane_bridge.legacy.uploads import Upload

ResponseShape: TypeAlias = Shape | Array | Either | Csv | Events
# Corrects a message after its members were read: the request and the message.
Fill: TypeAlias = Callable[[Incoming, Any], None]
# By code of an error, or `*` for each: members by name, a constant or a function of a text of the
# metadata.
ErrorMembers: TypeAlias = Mapping[str, Mapping[str, Any]]

# These routes are idempotent by nature, and some agents always send the same X-Request-ID.
NEVER_BY_REQUEST_ID: Final = frozenset({"14", "15", "38", "39", "47", "55", "57", "X10", "X15"})


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC call that a route can make; most routes have one. See `route`."""

    rpc: str
    shape: ResponseShape
    path: Mapping[str, str] = field(default_factory=dict)
    query: tuple[Parameter, ...] = ()
    body: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    fill: Fill | None = None
    when: Callable[[Incoming], bool] | None = None
    status: int | Callable[[Any], int] = 200
    errors: ErrorMembers = field(default_factory=dict)
    upload: Upload | None = None
    max_body_bytes: int = SMALL_BYTES


@dataclass(frozen=True, slots=True)
class LegacyRoute:
    """A method and a path of the legacy API.

    Attributes:
        id: Its number in the contract.
        method: HTTP method.
        template: The path with its variables.
        calls: The first one whose ``when`` holds is made; the last one has none.
    """

    id: str
    method: str
    template: str
    calls: tuple[Call, ...]


def call(
    rpc: str,
    shape: ResponseShape,
    *,
    path: Mapping[str, str] | None = None,
    query: Sequence[Parameter | str] = (),
    body: Sequence[Parameter | str] = (),
    headers: Sequence[Parameter | str] = (),
    fill: Fill | None = None,
    when: Callable[[Incoming], bool] | None = None,
    status: int | Callable[[Any], int] = 200,
    errors: ErrorMembers | None = None,
    upload: Upload | None = None,
    max_body_bytes: int = SMALL_BYTES,
) -> Call:
    """Declare a call of an RPC.

    Args:
        rpc: Service and method, e.g. ``AgentService.GetAgentConfig``.
        shape: A `Shape` (an object), `Array` (a bare array), `Either`, `Csv` or `Events`.
        path: The request's fields by the path's variables, where they differ; `client_id` fills
            `tenant_id` by itself.
        query: Parameters, by name or as `parameter`; `cursor` fills `page_token` by itself.
        body: Members of the body, the same way.
        headers: Headers, the same way.
        fill: Corrects the message where members cannot express it; shape only, never a rule.
        when: Condition on the request; only for a route that may call several RPCs.
        status: Status of a success, or a function of the response; unnecessary when the RPC sets it
            (`calls.created()`).
        errors: Members that an error has besides the usual ones, by code or for every error as
            ``*``; a function gets the text of the error's metadata of that name, e.g.
            ``{"REPLICA_LIMIT": {"current_count": int, "max_allowed": 1}}``.
        upload: Reads a multipart body into a client stream.
        max_body_bytes: Largest JSON body; see `spotplane_bridge.body_limits`. A route has the limit
            of its last call.
    """
    return Call(
        rpc,
        shape,
        path or {},
        tuple(as_parameter(member) for member in query),
        tuple(as_parameter(member) for member in body),
        tuple(as_parameter(member) for member in headers),
        fill,
        when,
        status,
        errors or {},
        upload,
        max_body_bytes,
    )


def route(
    number: str,
    at: str,
    rpc: str,
    shape: ResponseShape,
    *,
    instead: Sequence[Call] = (),
    **how: Any,
) -> LegacyRoute:
    """Declare a route.

    Args:
        number: Its number in the contract, e.g. ``X8``.
        at: Method and path, e.g. ``GET /api/agents/{agent_id}/config``.
        rpc: See `call`.
        shape: See `call`.
        instead: Calls to make instead when their ``when`` holds, tried in their order.
        **how: The other arguments of `call`.
    """
    method, _, template = at.partition(" ")
    return LegacyRoute(number, method, template, (*instead, call(rpc, shape, **how)))
