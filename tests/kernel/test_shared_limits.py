"""Budgets in Redis: the same decisions as in one process, for all servers together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from spotplane_server.kernel.background_task import task_scope
from spotplane_server.kernel.ratelimit import limiter, redis_client
from spotplane_server.kernel.ratelimit.limiter import Layer, LocalRateLimiter, Permit
from spotplane_server.kernel.ratelimit.redis_limiter import LEASE, LimiterUnavailable, RedisLimiter

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.valkey import Valkey

RPM = Layer("RATE_LIMIT_REQUESTS", "key:k", 3)
TPM = Layer("RATE_LIMIT_TOKENS", "key-tokens:k", 500, counts="tokens")
RUNS = Layer("CONCURRENCY_LIMIT", "key-runs:k", 2, counts="running")
DAY = Layer("ENVIRONMENT_LIMIT", "day:e", 2000, limiter.DAY_SECONDS, counts="tokens")
ENV = Layer("ENVIRONMENT_LIMIT", "env:e", 7)


@asynccontextmanager
async def server(
    url: str, clock: FakeClock, name: str = "s", lease: timedelta = LEASE
) -> AsyncIterator[RedisLimiter]:
    """The budgets as one server has them."""
    client = redis_client.connect(url)
    shared = RedisLimiter(client, name, clock, lease=lease)
    async with task_scope(shared.run(), "limits"):
        await shared.tried()
        yield shared
    await client.aclose()


async def asked(shared: RedisLimiter, layers: list[Layer], now: float) -> Permit | None:
    """Ask for a call; its permit, or the refusal."""
    permit = shared.permit(layers)
    limiter.check(layers, await shared.admit(layers, permit, now), now)
    return permit


async def admitted(shared: RedisLimiter, layers: list[Layer], now: float) -> bool:
    """Whether a call gets in."""
    try:
        await asked(shared, layers, now)
    except limiter.RateLimitExceeded:
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
async def test_redis_decides_as_one_process_would(
    redis_url: str, clock: FakeClock, seed: int
) -> None:
    """Over any mixture of calls, tokens, releases and pauses, to the last header."""
    chance, own, now = random.Random(seed), LocalRateLimiter(), 1.75e9
    running: list[tuple[Permit, Permit]] = []
    async with server(redis_url, clock, lease=timedelta(days=365)) as shared:
        for _ in range(400):
            now += chance.choice([0, 0, 0.1, 0.25, 1.5, 7, 21.3, 59.75, 60.25, 4000])
            if chance.random() < 0.3:
                spent = {key: chance.randint(1, 300) for key in ("key-tokens:k", "day:e")}
                await asyncio.gather(shared.spend(spent, now), own.spend(spent, now))
            if running and chance.random() < 0.6:
                ours, theirs = running.pop()
                own.leave(ours)
                shared.leave(theirs)
            layers = chance.sample([RPM, TPM, RUNS, DAY, ENV], chance.randint(1, 5))
            mine, its = own.permit(layers), shared.permit(layers)
            expected = await own.admit(layers, mine, now)
            verdict = await shared.admit(layers, its, now)
            assert verdict.refused == expected.refused
            for standing, other in zip(verdict.standings, expected.standings, strict=True):
                assert standing == pytest.approx(other, abs=0.002)
            if mine is not None and its is not None and not verdict.refused:
                running.append((mine, its))


async def test_the_budget_of_two_servers_is_one(redis_url: str, clock: FakeClock) -> None:
    """Whatever the mixture, and all of them asked at once."""
    layer = Layer("RATE_LIMIT_REQUESTS", "key:k", 50)
    async with server(redis_url, clock, "a") as a, server(redis_url, clock, "b") as b:
        found = await asyncio.gather(
            *(admitted(chosen, [layer], 1.75e9) for _ in range(60) for chosen in (a, b))
        )

    assert sum(found) == 50


async def test_a_refused_call_is_charged_nowhere(redis_url: str, clock: FakeClock) -> None:
    """Neither before nor behind the layer that refuses, and it holds no permit."""
    narrow = Layer("TENANT_LIMIT", "tenant:t", 1)
    async with server(redis_url, clock) as shared:
        assert await admitted(shared, [narrow], 1.75e9)
        for _ in range(20):
            assert not await admitted(shared, [RPM, RUNS, narrow], 1.75e9)
        verdict = await shared.admit([RPM, RUNS], shared.permit([RUNS]), 1.75e9)

    assert [standing.used for standing in verdict.standings] == [1, 1]


async def test_permits_of_a_killed_server_are_free_when_their_lease_ends(
    redis_url: str, clock: FakeClock
) -> None:
    """And not a moment earlier; a server that lives keeps its own."""
    async with server(redis_url, clock, "b") as alive:
        async with server(redis_url, clock, "a") as killed:
            await asked(killed, [RUNS], 1.75e9)
            await asked(killed, [RUNS], 1.75e9)
        assert not await admitted(alive, [RUNS], 1.75e9 + 89.9)
        assert await admitted(alive, [RUNS], 1.75e9 + 90)


async def test_permits_are_prolonged_while_their_calls_run(
    valkey: Valkey, redis_url: str, clock: FakeClock
) -> None:
    """A call of hours stays counted."""
    async with server(redis_url, clock, lease=timedelta(seconds=0.3)) as shared:
        await asked(shared, [RUNS], clock.now().timestamp())
        await asked(shared, [RUNS], clock.now().timestamp())
        clock.advance(timedelta(hours=1))
        with valkey.client() as client:
            then = clock.now().timestamp() * 1000
            await eventually(lambda: client.zcount("limit:key-runs:k", then, "+inf") == 2)


async def test_a_call_that_is_cancelled_while_it_asks_holds_nothing(
    redis_url: str, clock: FakeClock
) -> None:
    """Wherever the cancellation meets it."""
    async with server(redis_url, clock) as shared:
        for turns in range(6):
            call = asyncio.create_task(asked(shared, [RUNS], 1.75e9))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            (result,) = await asyncio.gather(call, return_exceptions=True)
            if isinstance(result, Permit):
                shared.leave(result)
        permits = [await asked(shared, [RUNS], 1.75e9) for _ in range(2)]

    assert len(permits) == 2


async def test_nobody_is_let_in_while_redis_is_away_and_all_goes_on_when_it_is_back(
    clock: FakeClock,
) -> None:
    """By itself; what tokens were used meanwhile is charged then, and what runs is held again."""
    with Valkey() as valkey:
        async with server(valkey.url, clock) as shared:
            now = clock.now().timestamp()
            permit = await asked(shared, [RUNS], now)
            valkey.stop()
            with pytest.raises(LimiterUnavailable):
                await shared.admit([RPM], None, now)
            await shared.spend({"key-tokens:k": 600}, now)
            valkey.start()

            async def back() -> bool:
                try:
                    return not await admitted(shared, [TPM], now)
                except LimiterUnavailable:
                    return False

            await eventually(back)
            assert await admitted(shared, [RUNS], now)
            assert not await admitted(shared, [RUNS], now)
            assert permit is not None
            shared.leave(permit)
            assert await admitted(shared, [RUNS], now)


async def test_a_script_that_redis_has_forgotten_is_told_again(
    valkey: Valkey, redis_url: str, clock: FakeClock
) -> None:
    """An operator's `SCRIPT FLUSH` costs one moment."""
    async with server(redis_url, clock) as shared:
        with valkey.client() as client:
            client.script_flush()

        async def back() -> bool:
            try:
                return await admitted(shared, [ENV], 1.75e9)
            except LimiterUnavailable:
                return False

        await eventually(back)
