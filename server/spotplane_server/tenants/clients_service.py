"""TenantService, clients: create, rotate and reveal the client token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from spotplane.v1 import tenant_pb2 as pb
from spotplane.v1 import tenant_pb2_grpc

from spotplane_server.kernel.api import wire
from spotplane_server.kernel.auth.encryption import SecretBox
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.tenants import clients, rules, store, tenant_setup
from spotplane_server.tenants.errors import TenantNotFound
from spotplane_server.tenants.store import MAX_NAME, Tenant


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Defaults for new clients and their tokens.

    Attributes:
        region_code: Region of a new tenant's first environment.
        rpm: Requests per minute of a token, except on agent routes.
        concurrency: Concurrent requests of a token, except on agent routes.
        box: Encrypts copies of tokens; None disables copies.
    """

    region_code: str
    rpm: int
    concurrency: int
    box: SecretBox | None


class ClientsService(tenant_pb2_grpc.TenantServiceServicer):
    """Handlers for administrators; the proto comments are their contract."""

    _db: Database
    _clock: Clock
    _clients: ClientSettings

    async def CreateClient(
        self, request: pb.CreateClientRequest, context: Context
    ) -> pb.CreateClientResponse:
        name = wire.text(request.name.strip(), "name", maximum=MAX_NAME, required=True)
        email = wire.email(request.email) if wire.has_field(request, "email") else None
        now, settings = self._clock.now(), self._clients
        async with self._db.transaction(ALL_TENANTS) as conn:
            tenant = await clients.insert(conn, name, email, now=now)
            await tenant_setup.create_default_environment(conn, tenant, settings.region_code)
            issued = await clients.issue_token(
                conn,
                tenant.id,
                rpm=settings.rpm,
                concurrency=settings.concurrency,
                box=settings.box,
                now=now,
            )
            await clients.append_event(
                conn,
                tenant.id,
                "client.created",
                {"name": tenant.name, "email": tenant.email},
                now=now,
            )
        return pb.CreateClientResponse(
            id=str(tenant.id),
            name=tenant.name,
            token=issued.secret,
            status=tenant.status,
            email=tenant.email,
        )

    async def RotateClientToken(
        self, request: pb.RotateClientTokenRequest, context: Context
    ) -> pb.RotateClientTokenResponse:
        tenant_id, now, settings = _tenant_id(request), self._clock.now(), self._clients
        grace = wire.optional_integer(request, "grace_seconds", 0, rules.MAX_CLIENT_GRACE_SECONDS)
        async with self._db.transaction(tenant_id) as conn:
            tenant = await _live(conn, tenant_id)
            issued = await clients.rotate_token(
                conn, tenant_id, grace_seconds=grace or 0, box=settings.box, now=now
            )
            issued = issued or await clients.issue_token(
                conn,
                tenant_id,
                rpm=settings.rpm,
                concurrency=settings.concurrency,
                box=settings.box,
                now=now,
            )
            data = {"name": tenant.name, "grace_seconds": grace or 0}
            await clients.append_event(conn, tenant_id, "token.regenerated", data, now=now)
        return pb.RotateClientTokenResponse(
            token=issued.secret, message=rules.rotation_message(grace or 0)
        )

    async def RevealClientToken(
        self, request: pb.RevealClientTokenRequest, context: Context
    ) -> pb.RevealClientTokenResponse:
        tenant_id = _tenant_id(request)
        async with self._db.transaction(tenant_id) as conn:
            tenant = await _live(conn, tenant_id)
            token, is_masked = await clients.reveal(
                conn, tenant_id, box=self._clients.box, now=self._clock.now()
            )
        return pb.RevealClientTokenResponse(token=token, client_name=tenant.name, masked=is_masked)


def _tenant_id(request: Any) -> TenantId:
    return TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))


async def _live(conn: Conn, tenant_id: UUID) -> Tenant:
    tenant = await store.get_tenant(conn, tenant_id)
    if tenant.status == "deleted":
        raise TenantNotFound(tenant_id)
    return tenant
