"""The shared Redis: there when it is configured, and never waited for when it is away."""

from __future__ import annotations

import time

import pytest
from prometheus_client import REGISTRY
from spotplane_server.kernel.ratelimit import redis_client

from tests.support.eventually import eventually
from tests.support.plane import running
from tests.support.valkey import Valkey


def dependency_up() -> float | None:
    """What the metrics say of Redis."""
    return REGISTRY.get_sample_value("dependency_up", {"service": "redis"})


async def test_a_server_has_the_redis_of_its_settings(database_url: str, redis_url: str) -> None:
    """Features reach it through the kernel, and the metrics say that it answers."""
    async with running(database_url, redis_url=redis_url) as plane:
        client = plane.server.kernel.redis
        assert client is not None
        await client.set("k", b"v")
        assert await client.get("k") == b"v"
        await eventually(lambda: dependency_up() == 1)


async def test_a_server_without_redis_has_none(database_url: str) -> None:
    """Nothing stands in for it."""
    async with running(database_url) as plane:
        assert plane.server.kernel.redis is None


async def test_a_command_fails_soon_while_redis_is_away_and_works_when_it_is_back() -> None:
    """With the same client; nobody has to be restarted."""
    with Valkey() as valkey:
        client = redis_client.connect(valkey.url)
        assert await redis_client.answers(client)
        valkey.stop()
        started = time.monotonic()
        with pytest.raises(redis_client.AWAY):
            await client.get("k")
        assert time.monotonic() - started < 3
        assert not await redis_client.answers(client)
        valkey.start()
        assert await client.get("k") is None
        await client.aclose()
