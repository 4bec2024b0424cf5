"""A running control plane, and how tests call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc, tenant_pb2, tenant_pb2_grpc
from spotplane_server.app import Server
from spotplane_server.config import ServerConfig
from spotplane_server.kernel.clock import Clock

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

ADMIN_TOKEN = "test-admin-token"
ADMIN = (("x-admin-token", ADMIN_TOKEN),)
Metadata = tuple[tuple[str, str], ...]


def config(database_url: str, **settings: Any) -> ServerConfig:
    """Settings of a server in tests: port 0, generous limits."""
    defaults: dict[str, Any] = {
        "port": 0,
        "admin_token": ADMIN_TOKEN,
        "admin_rate_limit_rpm": 1_000_000,
        "auth_failures_per_minute": 1_000_000,
        "db_pool_size": 6,
        "drain_seconds": 2,
    }
    return ServerConfig(database_url=database_url, **(defaults | settings))


@dataclass(frozen=True)
class Tenant:
    """A tenant with a key of role ``admin`` unless made otherwise."""

    id: str
    key: str
    key_id: str

    @property
    def metadata(self) -> Metadata:
        """The key as call metadata."""
        return bearer(self.key)


def bearer(key: str) -> Metadata:
    """A key as call metadata."""
    return (("authorization", f"Bearer {key}"),)


class Plane:
    """A server of this process and a channel to it."""

    def __init__(self, server: Server, channel: grpc.aio.Channel, database_url: str) -> None:
        self.server = server
        self.channel = channel
        self.database_url = database_url
        self.db = server.kernel.db
        self.target = f"127.0.0.1:{server.port}"

    def stub(self, stub: Any) -> Any:
        """A stub of the class given, on the plane's channel."""
        return stub(self.channel)

    async def tenant(self, **key: Any) -> Tenant:
        """Create a tenant with an admin key that no budget holds back."""
        made = await tenant_pb2_grpc.TenantServiceStub(self.channel).CreateTenant(
            tenant_pb2.CreateTenantRequest(name="Test", email=f"{uuid4().hex}@example.com"),
            metadata=ADMIN,
        )
        settings = {"role": "admin", "rate_limit_rpm": 1_000_000, "concurrency_limit": 10_000} | key
        issued = await self.key(made.id, **settings)
        return Tenant(made.id, issued.key, issued.id)

    async def key(self, tenant_id: str, **settings: Any) -> api_key_pb2.IssuedApiKey:
        """Create a key."""
        return await api_key_pb2_grpc.ApiKeyServiceStub(self.channel).CreateApiKey(
            api_key_pb2.CreateApiKeyRequest(tenant_id=tenant_id, **settings), metadata=ADMIN
        )


@asynccontextmanager
async def running(
    database_url: str,
    clock: Clock | None = None,
    *,
    on_statement: Callable[[LoggedQuery], None] | None = None,
    **settings: Any,
) -> AsyncIterator[Plane]:
    """Run a server of this process for the block."""
    server = await Server.start(config(database_url, **settings), clock, on_statement=on_statement)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
    try:
        yield Plane(server, channel, database_url)
    finally:
        await channel.close()
        await server.stop()


@dataclass(frozen=True)
class Refusal:
    """What an error said."""

    code: grpc.StatusCode
    reason: str
    http_status: int
    message: str
    metadata: dict[str, str]
    fields: Sequence[str]


def refusal(err: grpc.aio.AioRpcError) -> Refusal:
    """Read the rich status of a failed call."""
    trailers = dict(iter(err.trailing_metadata() or ()))
    raw = trailers.get("grpc-status-details-bin", b"")
    status = status_pb2.Status.FromString(raw if isinstance(raw, bytes) else b"")
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(bad)
    return Refusal(
        err.code(),
        info.reason,
        int(info.metadata.get("http_status", 0)),
        status.message,
        dict(info.metadata),
        [violation.field for violation in bad.field_violations],
    )


@asynccontextmanager
async def refused(reason: str, *, field: str | None = None) -> AsyncIterator[None]:
    """Expect the block's call to be refused with a reason, and perhaps for a field."""
    try:
        yield
    except grpc.aio.AioRpcError as err:
        said = refusal(err)
        assert said.reason == reason, (said, err)  # noqa: PT017 - a `raises` for reasons
        if field is not None:
            assert field in said.fields, said
    else:
        raise AssertionError(f"expected {reason}, but the call succeeded")
