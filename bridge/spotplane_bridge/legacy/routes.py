"""How a route of the field is declared: what it reads, which RPC it calls, how it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from spotplane_bridge.body_limits import SMALL_BYTES
from spotplane_bridge.legacy.exports import Csv
from spotplane_bridge.legacy.requests import Incoming, Take, taken
from spotplane_bridge.legacy.response_shapes import Array, Either, Shape
from spotplane_bridge.legacy.sse import Events
from spotplane_bridge.legacy.uploads import Upload

Answer: TypeAlias = Shape | Array | Either | Csv | Events
# Corrects a message after its members were read: the request and the message.
Fill: TypeAlias = Callable[[Incoming, Any], None]
# By code of an error, or `*` for each: members by name, constant or made of a text of the metadata.
ErrorMembers: TypeAlias = Mapping[str, Mapping[str, Any]]

# These routes are idempotent by nature, and some agents send one X-Request-ID for ever.
NEVER_BY_REQUEST_ID: Final = frozenset({"14", "15", "38", "39", "47", "55", "57", "X10", "X15"})


@dataclass(frozen=True, slots=True)
class Call:
    """One way in which a route calls an RPC; most routes have one. See `route`."""

    rpc: str
    answer: Answer
    path: Mapping[str, str] = field(default_factory=dict)
    query: tuple[Take, ...] = ()
    body: tuple[Take, ...] = ()
    headers: tuple[Take, ...] = ()
    fill: Fill | None = None
    when: Callable[[Incoming], bool] | None = None
    status: int | Callable[[Any], int] = 200
    errors: ErrorMembers = field(default_factory=dict)
    upload: Upload | None = None
    max_body_bytes: int = SMALL_BYTES


@dataclass(frozen=True, slots=True)
class DialectRoute:
    """A method and a path of the field.

    Attributes:
        id: As the contract numbers it.
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
    answer: Answer,
    *,
    path: Mapping[str, str] | None = None,
    query: Sequence[Take | str] = (),
    body: Sequence[Take | str] = (),
    headers: Sequence[Take | str] = (),
    fill: Fill | None = None,
    when: Callable[[Incoming], bool] | None = None,
    status: int | Callable[[Any], int] = 200,
    errors: ErrorMembers | None = None,
    upload: Upload | None = None,
    max_body_bytes: int = SMALL_BYTES,
) -> Call:
    """Say how an RPC is called.

    Args:
        rpc: Service and method, e.g. ``AgentService.GetAgentConfig``.
        answer: A `Shape` (an object), `Array` (a bare array), `Either`, `Csv` or `Events`.
        path: The request's fields by the path's variables, where they are not the same; `client_id`
            goes to `tenant_id` by itself.
        query: Parameters, by name or as `take`; `cursor` goes to `page_token` by itself.
        body: Members of the body, the same way.
        headers: Headers, the same way.
        fill: Corrects the message by hand where members cannot say it; shape only, never a rule.
        when: Of which requests; only for a route that may call several RPCs.
        status: Of a success, or made of the response; not needed when the RPC says it
            (`calls.created()`).
        errors: Members that an error has besides the usual ones, by code or for every error as
            ``*``; a function gets the text of the error's metadata of that name, e.g.
            ``{"REPLICA_LIMIT": {"current_count": int, "max_allowed": 1}}``.
        upload: Reads a multipart body into a client stream.
        max_body_bytes: Largest JSON body; see `spotplane_bridge.limits`. A route has the limit of
            its last call.
    """
    return Call(
        rpc,
        answer,
        path or {},
        tuple(taken(member) for member in query),
        tuple(taken(member) for member in body),
        tuple(taken(member) for member in headers),
        fill,
        when,
        status,
        errors or {},
        upload,
        max_body_bytes,
    )


def route(
    number: str, at: str, rpc: str, answer: Answer, *, instead: Sequence[Call] = (), **how: Any
) -> DialectRoute:
    """Declare a route.

    Args:
        number: As the contract has it, e.g. ``X8``.
        at: Method and path, e.g. ``GET /api/agents/{agent_id}/config``.
        rpc: See `call`.
        answer: See `call`.
        instead: Calls to make instead when their ``when`` holds, tried in their order.
        **how: The other arguments of `call`.
    """
    method, _, template = at.partition(" ")
    return DialectRoute(number, method, template, (*instead, call(rpc, answer, **how)))
