"""Where administrators may call from."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import Any

import pytest
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc, tenant_pb2, tenant_pb2_grpc
from spotplane_server.kernel.auth import client_address
from spotplane_server.kernel.auth.client_address import IpNotAllowed
from spotplane_server.kernel.db import bootstrap
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.support.plane import ADMIN, Metadata, Plane, refused, running

OFFICE = ipaddress.ip_network("192.0.2.0/24")
# The test's own address is the proxy's.
PROXY = ipaddress.ip_network("127.0.0.0/8")


def through(*hops: str) -> Metadata:
    """What a proxy says of a call's way."""
    return (("x-forwarded-for", ", ".join(hops)),)


async def list_tenants(plane: Plane, metadata: Any) -> None:
    """A call of an administrator."""
    stub = tenant_pb2_grpc.TenantServiceStub(plane.channel)
    await stub.ListTenants(tenant_pb2.ListTenantsRequest(), metadata=metadata)


async def test_only_the_right_most_hop_that_is_no_proxy_counts(database_url: str) -> None:
    """What a caller itself puts in the header lets it in nowhere."""
    async with running(
        database_url, admin_ip_allowlist=(OFFICE,), trusted_proxies=(PROXY,)
    ) as plane:
        await list_tenants(plane, ADMIN + through("203.0.113.9", "192.0.2.7"))
        await list_tenants(plane, ADMIN + through("192.0.2.7", "127.0.0.3"))
        for hops in (("192.0.2.7", "203.0.113.9"), ("nonsense",), ()):
            async with refused("IP_NOT_ALLOWED"):
                await list_tenants(plane, ADMIN + through(*hops))


async def test_from_elsewhere_nobody_learns_whether_a_token_is_good(database_url: str) -> None:
    """A wrong one, and none at all, are answered as the right one is."""
    async with running(database_url, admin_ip_allowlist=(OFFICE,)) as plane:
        for metadata in (ADMIN, (("x-admin-token", "guess"),), ()):
            async with refused("IP_NOT_ALLOWED"):
                await list_tenants(plane, metadata)


async def test_tenants_are_not_held_to_the_administrators_networks(database_url: str) -> None:
    """Their keys work from anywhere."""
    async with running(database_url) as plane:
        tenant = await plane.tenant()
    async with running(database_url, admin_ip_allowlist=(OFFICE,)) as plane:
        stub = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)
        await stub.ListOwnApiKeys(api_key_pb2.ListOwnApiKeysRequest(), metadata=tenant.metadata)


async def test_a_credential_has_networks_of_its_own(database_url: str) -> None:
    """They change for the next call, as every right does."""
    token = (("x-admin-token", "of-the-office"),)

    async def allow(plane: Plane, *cidrs: client_address.Network) -> None:
        async with plane.db.transaction(ALL_TENANTS) as conn:
            await bootstrap.put_admin(
                conn, "office", "of-the-office", cidrs=cidrs, now=datetime.now(UTC)
            )

    async with running(database_url, trusted_proxies=(PROXY,)) as plane:
        await allow(plane, OFFICE)
        await list_tenants(plane, token + through("192.0.2.7"))
        async with refused("IP_NOT_ALLOWED"):
            await list_tenants(plane, token + through("203.0.113.9"))
        await allow(plane, ipaddress.ip_network("203.0.113.0/24"))
        await list_tenants(plane, token + through("203.0.113.9"))
        async with refused("IP_NOT_ALLOWED"):
            await list_tenants(plane, token + through("192.0.2.7"))
        await list_tenants(plane, ADMIN)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("192.0.2.255", True),
        ("::ffff:192.0.2.1", True),
        ("192.0.3.0", False),
        ("2001:db8::1", False),
    ],
)
def test_an_address_is_held_to_networks_of_its_kind(address: str, allowed: bool) -> None:
    """An IPv4 caller of a socket that speaks both kinds is an IPv4 caller."""
    if allowed:
        client_address.check_allowed(address, [OFFICE])
    else:
        with pytest.raises(IpNotAllowed):
            client_address.check_allowed(address, [OFFICE])


def test_an_unknown_address_is_on_no_list() -> None:
    """And an empty list holds nobody back."""
    client_address.check_allowed(None, [])
    with pytest.raises(IpNotAllowed):
        client_address.check_allowed(None, [OFFICE])
