"""Request context: the caller and the request id of one RPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NewType
from uuid import UUID

if TYPE_CHECKING:
    import grpc.aio
    from opentelemetry.trace import Span

    from spotplane_server.kernel.auth.ticket_routes import Target
    from spotplane_server.kernel.rpc.stream_registry import OpenStream

TenantId = NewType("TenantId", UUID)

Role = Literal["read_only", "developer", "admin", "agent"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A proven identity.

    Attributes:
        kind: ``admin`` (platform administrator), ``tenant`` (API key), ``agent`` (one agent's own
            credential), ``anonymous`` (public methods) or ``system`` (jobs).
        id: UUID of the credential; for an agent's own credential, of the agent.
        name: The credential's name; the actor of audit rows.
        tenant_id: The tenant of a key or an agent; None for administrators.
        environment_id: The environment of a key.
        role: The role of a key.
        scopes: The scopes of an administrator.
    """

    kind: Literal["admin", "tenant", "agent", "anonymous", "system"]
    id: str
    name: str
    tenant_id: TenantId | None = None
    environment_id: UUID | None = None
    role: Role | None = None
    scopes: frozenset[str] = frozenset()


ANONYMOUS: Final = Caller("anonymous", "", "anonymous")


@dataclass(slots=True)
class Call:
    """One RPC being served.

    Attributes:
        correlation_id: Id of logs, audit rows and events of this call.
        http_status: Success status for the REST doors.
        headers: Answer headers for the REST doors, lower-case.
        credential_hash: Of the credential that proved the caller; empty before that.
        span: Of its trace, None where nobody collects traces.
        ticket: What the ticket that proved the caller opens; None for other credentials.
        headers_sent: Whether the response headers are sent.
        stream: Its entry in the registry of open streams; None for a call that is no stream.
    """

    method: str
    correlation_id: str
    caller: Caller = ANONYMOUS
    client_ip: str | None = None
    user_agent: str | None = None
    http_status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    credential_hash: bytes = b""
    span: Span | None = None
    ticket: Target | None = None
    headers_sent: bool = False
    stream: OpenStream | None = None


_current: ContextVar[Call] = ContextVar("spotplane_call")


def current() -> Call:
    """The RPC being served by this task.

    Raises:
        LookupError: Outside of an RPC.
    """
    return _current.get()


def own_tenant() -> TenantId:
    """The caller's tenant, of an RPC that only callers of a tenant may call.

    Raises:
        LookupError: The policy table let a caller without a tenant through.
    """
    tenant_id = current().caller.tenant_id
    if tenant_id is None:
        raise LookupError("the policy table let a caller without a tenant through")
    return tenant_id


def correlation_id() -> str | None:
    """Id of the RPC being served, None outside of one."""
    call = _current.get(None)
    return call.correlation_id if call else None


def span() -> Span | None:
    """Span of the RPC being served, None outside of one and where nobody collects traces."""
    call = _current.get(None)
    return call.span if call else None


def enter(call: Call) -> None:
    """Make ``call`` the one being served by this task; the task ends with the call."""
    _current.set(call)


@contextmanager
def serving(call: Call) -> Iterator[None]:
    """Make ``call`` the one being served within the block, for work that no RPC started."""
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)


async def send_headers(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Send the response headers of a stream now, before its first message.

    gRPC sends them once, so a handler leaves it to this function.
    """
    call = current()
    headers, call.headers = call.headers, {}
    call.headers_sent = True
    await context.send_initial_metadata(tuple(headers.items()))


def created() -> None:
    """Answer 201 at the REST doors."""
    current().http_status = 201


def no_content() -> None:
    """Answer 204, without a body, at the REST doors."""
    current().http_status = 204


def answer_headers(headers: Mapping[str, str]) -> None:
    """Add headers to the REST doors' answer."""
    current().headers.update(headers)
