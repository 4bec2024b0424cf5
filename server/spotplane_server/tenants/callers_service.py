"""CallerService: identity of the caller, tickets, and service information."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from spotplane.v1 import caller_pb2 as pb
from spotplane.v1 import caller_pb2_grpc

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import tenant_scope, wire
from spotplane_server.kernel.auth import policy
from spotplane_server.kernel.auth.tickets import VALID, Tickets
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.tenants import store, ticket_paths

MAX_PATH: Final = 2048
_PACKAGE: Final = "/spotplane.v1."


class CallerService(caller_pb2_grpc.CallerServiceServicer):
    """Handlers; the proto comments are their contract."""

    def __init__(self, db: Database, clock: Clock, tickets: Tickets) -> None:
        self._db = db
        self._clock = clock
        self._tickets = tickets

    async def ValidateCaller(
        self, request: pb.ValidateCallerRequest, context: Context
    ) -> pb.ValidateCallerResponse:
        caller = request_context.current().caller
        if caller.tenant_id is None:
            return pb.ValidateCallerResponse(name=caller.name, role="platform_admin")
        async with self._db.connection(caller.tenant_id) as conn:
            tenant = await store.get_tenant(conn, caller.tenant_id)
        return pb.ValidateCallerResponse(
            tenant_id=str(tenant.id),
            name=tenant.name,
            email=tenant.email,
            role=caller.role or "agent",
        )

    async def MintTicket(
        self, request: pb.MintTicketRequest, context: Context
    ) -> pb.MintTicketResponse:
        call, now = request_context.current(), self._clock.now()
        requested = wire.text(request.path, "path", maximum=MAX_PATH, required=True)
        path = ticket_paths.validate_path(call.caller, requested)
        tenant_ids = ticket_paths.tenant_ids_in(path)
        async with self._db.transaction(call.caller.tenant_id or ALL_TENANTS) as conn:
            for tenant_id in tenant_ids:
                await tenant_scope.check_tenant_exists(conn, TenantId(tenant_id))
            ticket = await self._tickets.mint(
                conn, call.caller, call.credential_hash, path, now=now
            )
        request_context.created()
        return pb.MintTicketResponse(
            ticket=ticket,
            url=f"{path}{'&' if '?' in path else '?'}ticket={ticket}",
            expire_time=wire.timestamp(now + VALID),
            expires_in_seconds=int(VALID.total_seconds()),
        )

    async def GetServiceInfo(
        self, request: pb.GetServiceInfoRequest, context: Context
    ) -> pb.GetServiceInfoResponse:
        services = {
            method.rpartition("/")[0].removeprefix("/")
            for method in policy.METHODS
            if method.startswith(_PACKAGE)
        }
        return pb.GetServiceInfoResponse(
            service="spotplane", version=_version(), api=sorted(services)
        )


def _version() -> str:
    try:
        return version("spotplane")
    except PackageNotFoundError:
        return "0"
