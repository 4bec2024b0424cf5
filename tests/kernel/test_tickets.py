"""A ticket opens the RPC and the tenant of its path, whatever metadata comes with it."""

from __future__ import annotations

from typing import Any

import pytest
from spotplane.v1 import (
    caller_pb2,
    caller_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    savings_pb2,
    savings_pb2_grpc,
)
from spotplane_server.kernel.auth import policy, ticket_routes

from tests.support.plane import ADMIN, Metadata, Plane, refused, running

INTERNAL: Metadata = (
    ("x-spotplane-door", "edge"),
    ("x-spotplane-family", "fleet"),
    ("x-spotplane-path", "/api/events/stream"),
    ("x-spotplane-ticket", "x"),
)


async def mint(plane: Plane, path: str, metadata: Metadata = ADMIN) -> Metadata:
    """A ticket for a path, as the bridge sends it."""
    stub = caller_pb2_grpc.CallerServiceStub(plane.channel)
    made = await stub.MintTicket(caller_pb2.MintTicketRequest(path=path), metadata=metadata)
    return (("x-spotplane-ticket", made.ticket), ("x-spotplane-path", path))


async def export_savings(plane: Plane, tenant_id: str, metadata: Metadata) -> None:
    stub: Any = savings_pb2_grpc.SavingsServiceStub(plane.channel)
    await stub.ExportSavings(
        savings_pb2.ExportSavingsRequest(tenant_id=tenant_id), metadata=metadata
    )


async def test_a_ticket_opens_one_rpc_of_one_tenant(plane: Plane) -> None:
    tenant, other = await plane.tenant(), await plane.tenant()
    ticket = await mint(plane, f"/api/client/{tenant.id}/export/savings")

    switches: Any = fleet_pb2_grpc.FleetServiceStub(plane.channel)
    async with refused("TICKET_INVALID"):
        async for _ in switches.ExportSwitches(
            fleet_pb2.ExportSwitchesRequest(tenant_id=tenant.id), metadata=ticket
        ):
            pass
    events = event_pb2_grpc.EventServiceStub(plane.channel)
    async with refused("TICKET_INVALID"):
        async for _ in events.Subscribe(event_pb2.SubscribeRequest(), metadata=ticket):
            pass
    await export_savings(plane, tenant.id, ticket)

    for named in (other.id, ""):
        ticket = await mint(plane, f"/api/client/{tenant.id}/export/savings")
        async with refused("TICKET_INVALID"):
            await export_savings(plane, named, ticket)


async def test_tickets_are_credentials_only_where_a_proxy_of_ours_presents_them(
    database_url: str,
) -> None:
    async with running(database_url, trusted_proxies=()) as plane:
        tenant = await plane.tenant()
        ticket = await mint(plane, f"/api/client/{tenant.id}/export/savings")
        async with refused("API_KEY_MISSING"):
            await export_savings(plane, tenant.id, ticket)


@pytest.mark.parametrize("internal", [INTERNAL, INTERNAL[:1]], ids=["all", "door"])
async def test_a_stream_of_events_begins_with_internal_metadata_too(
    plane: Plane, internal: Metadata
) -> None:
    tenant = await plane.tenant()
    stub: Any = event_pb2_grpc.EventServiceStub(plane.channel)
    call = stub.Subscribe(event_pb2.SubscribeRequest(), metadata=tenant.metadata + internal)
    assert (await call.read()).event == "connected"
    headers = dict(iter(await call.initial_metadata()))
    assert "x-ratelimit-limit" in headers
    call.cancel()


@pytest.mark.parametrize(
    "path",
    [
        "/api/client/a/export/savings",
        "/api/client/a/export/switch-history",
        "/api/admin/export/global-stats",
        "/api/events/stream",
        "/api/events/stream/a",
    ],
)
def test_every_path_that_takes_tickets_belongs_to_an_rpc_that_does(path: str) -> None:
    target = ticket_routes.target(f"{path}?x=1")
    assert target is not None
    assert policy.METHODS[target.method].ticket
    assert ticket_routes.target(f"{path}/more/x") is None
