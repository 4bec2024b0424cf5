"""What takes a right away holds for every call that starts after its answer, on every server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.support.clock import FakeClock
from tests.support.plane import Plane, running
from tests.tenants.api import admin, holder, outcome

ROUNDS = 20
CALLS = 20


@pytest.fixture
async def second(plane: Plane, clock: FakeClock) -> AsyncIterator[Plane]:
    """Another server on the same database."""
    async with running(plane.database_url, clock) as up:
        yield up


async def answers(plane: Plane, key: str) -> Counter[str]:
    """What parallel calls with the key are told."""
    caller = holder(plane, key)
    return Counter(await asyncio.gather(*(outcome(caller("ListOwnApiKeys")) for _ in range(CALLS))))


async def test_suspension_and_activation_through_one_server_hold_on_the_other(
    plane: Plane, second: Plane
) -> None:
    tenant = await plane.tenant()
    assert await answers(plane, tenant.key) == await answers(second, tenant.key) == {"OK": CALLS}
    for _ in range(ROUNDS):
        await admin(plane)("SuspendTenant", id=tenant.id)
        assert await answers(second, tenant.key) == {"TENANT_SUSPENDED": CALLS}
        await admin(second)("ActivateTenant", id=tenant.id)
        assert await answers(plane, tenant.key) == {"OK": CALLS}


async def test_calls_that_start_after_a_revocation_fail(plane: Plane, second: Plane) -> None:
    """A hammer on the other server never gets through afterwards."""
    tenant = await plane.tenant()
    loop = asyncio.get_running_loop()
    for _ in range(ROUNDS):
        key = await plane.key(tenant.id, rate_limit_rpm=1_000_000, concurrency_limit=1000)
        starts: list[float] = []
        done = asyncio.Event()

        async def hammer(key: str, starts: list[float], done: asyncio.Event) -> None:
            caller = holder(second, key)
            while not done.is_set():
                started = loop.time()
                if await outcome(caller("ListOwnApiKeys")) == "OK":
                    starts.append(started)

        hammers = [asyncio.create_task(hammer(key.key, starts, done)) for _ in range(4)]
        assert await outcome(holder(second, key.key)("ListOwnApiKeys")) == "OK"
        await admin(plane)("RevokeApiKey", key_id=key.id)
        revoked = loop.time()
        assert await answers(second, key.key) == {"API_KEY_INVALID": CALLS}
        done.set()
        await asyncio.gather(*hammers)
        assert not [start for start in starts if start > revoked]


async def test_rotation_without_grace_and_deletion_hold_at_once_everywhere(
    plane: Plane, second: Plane
) -> None:
    """The old key is out and the new one in; a deleted tenant's keys are unknown."""
    tenant = await plane.tenant()
    key, key_id = tenant.key, tenant.key_id
    for _ in range(ROUNDS):
        assert await answers(second, key) == {"OK": CALLS}
        new = await admin(plane)("RotateApiKey", key_id=key_id, grace_period_seconds=0)
        assert await answers(second, key) == {"API_KEY_EXPIRED": CALLS}
        key, key_id = new.key, new.id
    assert await answers(second, key) == {"OK": CALLS}
    await admin(plane)("DeleteTenant", id=tenant.id)
    assert await answers(second, key) == {"API_KEY_INVALID": CALLS}
