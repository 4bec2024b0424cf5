"""Clients: a tenant with its one token, its end, and the copies that an operator may keep."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import grpc
import pytest
from spotplane.v1 import tenant_pb2 as pb
from spotplane.v1 import tenant_pb2_grpc
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.tenants import rules

from tests.support.eventually import eventually
from tests.support.link import by_hand, run_job
from tests.support.plane import ADMIN, Plane, refused, running


async def _rows(plane: Plane, statement: str, *arguments: Any) -> list[Any]:
    async with plane.db.connection(ALL_TENANTS) as conn:
        return list(await conn.fetch(statement, *arguments))


def _tenants(plane: Plane) -> Any:
    return plane.stub(tenant_pb2_grpc.TenantServiceStub)


async def test_concurrent_creations_with_one_name_have_one_winner(plane: Plane) -> None:

    async def create() -> grpc.StatusCode:
        call = _tenants(plane).CreateClient(pb.CreateClientRequest(name="Acme"), metadata=ADMIN)
        code: grpc.StatusCode = await call.code()
        return code

    codes = await asyncio.gather(*(create() for _ in range(6)))
    assert sorted(code.name for code in codes) == ["ALREADY_EXISTS"] * 5 + ["OK"]


async def test_client_lifecycle_events_contain_no_token(plane: Plane) -> None:
    """Events of its making, its token and its end, without the token."""
    made = await _tenants(plane).CreateClient(pb.CreateClientRequest(name="Acme"), metadata=ADMIN)
    request = pb.RotateClientTokenRequest(tenant_id=made.id)
    rotated = await _tenants(plane).RotateClientToken(request, metadata=ADMIN)
    await _tenants(plane).DeleteTenant(pb.DeleteTenantRequest(id=made.id), metadata=ADMIN)
    told = await _rows(
        plane,
        "SELECT event_type, data::text FROM outbox_events WHERE aggregate_id = $1 ORDER BY seq",
        made.id,
    )
    kinds = [row["event_type"] for row in told]
    assert [kind for kind in kinds if kind.partition(".")[0] in {"client", "token"}] == [
        "client.created",
        "token.regenerated",
        "client.deleted",
    ]
    text = "".join(row["data"] for row in told)
    assert made.token not in text
    assert rotated.token not in text


async def test_a_deleted_tenant_takes_its_fleet_with_it(plane: Plane) -> None:
    """Agents, instances, replicas, commands and notifications; its streams end."""
    async with by_hand(plane) as hand:
        _, conversation = await hand.start("i-primary")
        await _tenants(plane).DeleteTenant(
            pb.DeleteTenantRequest(id=hand.tenant.id), metadata=ADMIN
        )
        ended = await conversation.end()
        assert ended is not None
        assert ended.reason == "API_KEY_INVALID"
        [left] = await _rows(
            plane,
            """
            SELECT (SELECT count(*) FROM agents WHERE status <> 'deleted') AS agents,
                   (SELECT count(*) FROM instances WHERE status <> 'terminated') AS instances,
                   (SELECT count(*) FROM instance_spans WHERE ended_at IS NULL) AS spans,
                   (SELECT count(*) FROM agent_commands
                     WHERE status IN ('pending', 'leased', 'executing')) AS commands,
                   (SELECT count(*) FROM replicas
                     WHERE status IN ('launching', 'syncing', 'ready')) AS replicas
            """,
        )
        assert set(left.values()) == {0}


async def test_other_tenants_keep_their_fleets(plane: Plane) -> None:
    """An end is one tenant's."""
    gone = await plane.tenant()
    async with by_hand(plane) as hand:
        await hand.start("i-primary")
        await _tenants(plane).DeleteTenant(pb.DeleteTenantRequest(id=gone.id), metadata=ADMIN)
        assert (await _rows(plane, "SELECT count(*) FROM agents WHERE deleted_at IS NULL"))[0][0]


async def test_stored_token_copy_can_be_revealed(database_url: str) -> None:
    key = secrets.token_bytes(32)
    async with running(database_url, token_escrow_key=key) as plane:
        made = await _tenants(plane).CreateClient(
            pb.CreateClientRequest(name="Acme"), metadata=ADMIN
        )
        request = pb.RevealClientTokenRequest(tenant_id=made.id)
        shown = await _tenants(plane).RevealClientToken(request, metadata=ADMIN)
        assert (shown.token, shown.masked) == (made.token, False)
        [copy] = await _rows(plane, "SELECT sealed FROM token_escrow")
        assert made.token.encode() not in copy["sealed"]
        [audited] = await _rows(
            plane, "SELECT count(*) FROM audit_logs WHERE action = 'api_key.reveal'"
        )
        assert audited[0] == 1
        rotated = await _tenants(plane).RotateClientToken(
            pb.RotateClientTokenRequest(tenant_id=made.id), metadata=ADMIN
        )
        again = await _tenants(plane).RevealClientToken(request, metadata=ADMIN)
        assert again.token == rotated.token


async def test_turning_copies_off_deletes_them(database_url: str) -> None:
    async with running(database_url, token_escrow_key=secrets.token_bytes(32)) as plane:
        made = await _tenants(plane).CreateClient(
            pb.CreateClientRequest(name="Acme"), metadata=ADMIN
        )
    async with running(database_url) as plane:

        async def none_left() -> bool:
            return not await _rows(plane, "SELECT FROM token_escrow")

        await run_job(plane, "token_escrow")
        await eventually(none_left)
        request = pb.RevealClientTokenRequest(tenant_id=made.id)
        shown = await _tenants(plane).RevealClientToken(request, metadata=ADMIN)
        assert (shown.token, shown.masked) == (f"{made.token[:6]}…{made.token[-4:]}", True)


async def test_a_tenant_made_otherwise_gets_its_first_client_token(plane: Plane) -> None:
    tenant = await plane.tenant()
    rotated = await _tenants(plane).RotateClientToken(
        pb.RotateClientTokenRequest(tenant_id=tenant.id), metadata=ADMIN
    )
    live = await _rows(
        plane, "SELECT name FROM api_keys WHERE expires_at IS NULL ORDER BY created_at, name"
    )
    assert rotated.token
    assert sorted(row["name"] for row in live) == ["", "client token"]


async def test_a_suspended_tenants_token_is_not_renewed(plane: Plane) -> None:
    made = await _tenants(plane).CreateClient(pb.CreateClientRequest(name="Acme"), metadata=ADMIN)
    await _tenants(plane).SuspendTenant(pb.SuspendTenantRequest(id=made.id), metadata=ADMIN)
    async with refused("TENANT_NOT_ACTIVE"):
        await _tenants(plane).RotateClientToken(
            pb.RotateClientTokenRequest(tenant_id=made.id), metadata=ADMIN
        )


@pytest.mark.parametrize(
    ("name", "number", "email"),
    [
        ("Acme Corp", 1, "acme_corp@example.com"),
        ("Acme Corp", 3, "acme_corp3@example.com"),
        ("a@b", 1, "ab@example.com"),
        ("@", 1, "client@example.com"),
        ("ÄÖ\tÜ", 1, "äö_ü@example.com"),
    ],
)
def test_addresses_are_made_of_names(name: str, number: int, email: str) -> None:
    """Lower-case, blanks as `_`, and a number when the first choice is taken."""
    assert rules.placeholder_email(name, number) == email
