"""Only our own proxies are believed, and one that is not configured makes the server unready."""

from __future__ import annotations

import ipaddress

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from spotplane.v1 import event_pb2, event_pb2_grpc
from spotplane_server.kernel.auth.trusted_proxies import TrustedProxies

from tests.support.eventually import eventually
from tests.support.plane import ADMIN, Plane, refused, running

FORWARDED = (("x-forwarded-for", "192.0.2.7"),)


async def serves(plane: Plane, check: str = "") -> bool:
    stub = health_pb2_grpc.HealthStub(plane.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=check))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def watch_nothing(plane: Plane, *metadata: tuple[str, str]) -> None:
    """A call that is refused for its argument once the caller is admitted."""
    stub = event_pb2_grpc.EventServiceStub(plane.channel)
    async with refused("UNKNOWN_ENUM"):
        async for _ in stub.Subscribe(event_pb2.SubscribeRequest(types=["x"]), metadata=metadata):
            pass


async def test_a_call_through_a_proxy_that_is_not_trusted_makes_the_server_unready(
    database_url: str,
) -> None:
    async with running(database_url, trusted_proxies=()) as plane:
        await eventually(lambda: serves(plane))
        await watch_nothing(plane, *ADMIN, *FORWARDED)

        async def unready() -> bool:
            return not await serves(plane)

        await eventually(unready)
        assert not await serves(plane, "trusted-proxies")
        assert await serves(plane, "database")


async def test_proxies_on_this_host_are_trusted_by_default(database_url: str) -> None:
    async with running(database_url) as plane:
        await watch_nothing(plane, *ADMIN, *FORWARDED)

        assert plane.server.kernel.proxies.unconfigured is None


@pytest.mark.parametrize(
    ("peer", "proven", "expected"),
    [
        ("ipv4:127.0.0.1:1", False, "127.0.0.1"),
        ("ipv6:[::1]:1", False, "::1"),
        ("ipv4:10.0.0.9:1", False, None),
        ("ipv4:203.0.113.9:1", False, None),
        ("ipv4:10.0.0.9:1", True, "10.0.0.9"),
        ("unix:", True, None),
    ],
)
def test_a_caller_that_sends_the_header_itself_is_no_proxy(
    peer: str, proven: bool, expected: str | None
) -> None:
    proxies = TrustedProxies([ipaddress.ip_network("192.0.2.0/24")])
    proxies.note(proxies.origin(peer, FORWARDED), proven=proven)

    assert proxies.unconfigured == expected


def test_internal_metadata_is_believed_from_trusted_peers_only() -> None:
    proxies = TrustedProxies([ipaddress.ip_network("192.0.2.0/24")])
    sent = (("x-spotplane-path", "/x"), ("x-spotplane-door", "edge"), ("x-request-id", "1"))

    assert proxies.origin("ipv4:192.0.2.1:1", sent).metadata == dict(sent)
    assert proxies.origin("ipv4:10.0.0.9:1", sent).metadata == {"x-request-id": "1"}
    assert proxies.origin("unix:", sent).metadata == {"x-request-id": "1"}
