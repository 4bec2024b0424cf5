"""The throttle of authentication failures, and what unknown credentials cost the database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc
from spotplane_server.kernel.auth import authenticator, secrets
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.support.clock import FakeClock
from tests.support.plane import Plane, bearer, refusal, refused, running

LIMIT = 3


class Lookups(Counter[str]):
    """Counts statements by their text."""

    def __call__(self, query: object) -> None:
        self[str(getattr(query, "query", ""))] += 1


@pytest.fixture
def lookups() -> Lookups:
    return Lookups()


@pytest.fixture
async def throttled(database_url: str, clock: FakeClock, lookups: Lookups) -> AsyncIterator[Plane]:
    async with running(
        database_url, clock, on_statement=lookups, auth_failures_per_minute=LIMIT
    ) as plane:
        yield plane


async def list_keys(plane: Plane, key: str) -> None:
    stub = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)
    await stub.ListOwnApiKeys(api_key_pb2.ListOwnApiKeysRequest(), metadata=bearer(key))


async def fail(plane: Plane, count: int) -> list[str]:
    """Reasons of calls with keys that do not exist, all at once."""

    async def reason() -> str:
        try:
            await list_keys(plane, secrets.issue("live").secret)
        except grpc.aio.AioRpcError as err:
            return refusal(err).reason
        return ""

    return await asyncio.gather(*(reason() for _ in range(count)))


async def test_failures_beyond_the_limit_are_told_to_wait(throttled: Plane) -> None:
    reasons = Counter(await fail(throttled, LIMIT + 5))
    assert reasons == {"API_KEY_INVALID": LIMIT, "RATE_LIMIT_EXCEEDED": 5}


async def test_a_new_valid_key_from_an_address_with_too_many_failures_is_accepted(
    throttled: Plane,
) -> None:
    tenant = await throttled.tenant()
    await fail(throttled, LIMIT + 1)

    await list_keys(throttled, tenant.key)
    new = await throttled.key(tenant.id, role="admin")
    await list_keys(throttled, new.key)


async def test_unknown_keys_share_their_look_ups_once_the_limit_is_reached(
    throttled: Plane, lookups: Lookups
) -> None:
    await fail(throttled, LIMIT)
    lookups.clear()

    assert set(await fail(throttled, 50)) == {"RATE_LIMIT_EXCEEDED"}
    assert lookups[authenticator.FIND_API_KEY] == 0
    assert lookups[authenticator.FIND_CREDENTIALS] < 25


async def test_a_refused_key_is_looked_up_again_only_when_credentials_have_changed(
    database_url: str, lookups: Lookups
) -> None:
    key = secrets.issue("live").secret
    async with running(database_url, on_statement=lookups) as plane:

        async def look_ups() -> int:
            async with refused("API_KEY_INVALID"):
                await list_keys(plane, key)
            return lookups[authenticator.FIND_API_KEY]

        assert [await look_ups(), await look_ups()] == [1, 1]
        async with plane.db.transaction(ALL_TENANTS) as conn:
            await authenticator.bump_epoch(conn)
        assert await look_ups() == 2


async def test_every_credential_exists_under_its_hash_and_no_other_does(plane: Plane) -> None:
    tenant = await plane.tenant()
    exists = plane.server.kernel.auth.exists
    tokens = ("test-admin-token", tenant.key, "x")
    assert [await exists(token) for token in tokens] == [True, True, False]
