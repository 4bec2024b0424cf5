"""Redis rate limiter: counters shared by all servers, updated by one script.

What asks at the same time is asked in one command, so a busy server pays for the trip once and not
for each call. Nothing is lent to servers in advance: a key's five concurrent calls cannot be cut in
parts, so each call asks anyway, and the windows come along. No budget is ever overshot.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.errors import Unavailable
from spotplane_server.kernel.ratelimit import redis_client
from spotplane_server.kernel.ratelimit.limiter import (
    STEPS,
    Layer,
    Permit,
    RateLimitDecision,
    Standing,
    seconds_of,
)
from spotplane_server.kernel.ratelimit.redis_pipeline import RedisPipeline, RedisUnavailable

log = structlog.get_logger(__name__)

SCRIPT: Final = Path(__file__).with_name("rate_limit.lua").read_text(encoding="utf-8")
SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
PREFIX: Final = "limit:"
LEASE: Final = timedelta(seconds=90)
# Calls asked for in one command; beyond, others wait too long for Redis.
MAX_BATCH: Final = 64
_KINDS: Final = {"calls": "c", "tokens": "t", "running": "r"}


class LimiterUnavailable(Unavailable):
    """The store of the budgets does not answer; nobody is let in unasked."""

    reason = "LIMITER_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the rate limiter is not reachable; retry", retry_after_seconds=1.0)


class _Asked:
    """A call that waits for its verdict."""

    __slots__ = ("arguments", "keys", "now", "permit", "verdict")

    def __init__(
        self, keys: Sequence[str], arguments: Sequence[Any], permit: Permit | None, now: int
    ) -> None:
        self.keys = keys
        self.arguments = arguments
        self.permit = permit
        self.now = now
        self.verdict: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()


class RedisLimiter:
    """The budgets of all servers of one Redis; `run` it beside their use.

    Args:
        client: The Redis.
        server_id: Tells this server's permits from others'.
        clock: Says until when permits last. Servers' clocks may differ by a window's step, 0.25 s,
            without anybody's noticing; a window's own time never runs back.
        lease: How long a permit outlives its server.
    """

    def __init__(
        self, client: redis_client.Client, server_id: str, clock: Clock, *, lease: timedelta = LEASE
    ) -> None:
        self._pipe = RedisPipeline(client, self._on_connect)
        self._clock = clock
        self._lease = lease
        self._lasts = int(lease.total_seconds() * 1000)
        self._names = (f"{server_id}:{number}" for number in itertools.count())
        self._asked: list[_Asked] = []
        self._running: set[Permit] = set()
        # What Redis holds of calls whose end it was not told, and what it was not told to charge.
        self._owed: list[Permit] = []
        self._unspent: Counter[str] = Counter()

    def permit(self, layers: Sequence[Layer]) -> Permit | None:
        """A permit to ask for, when one of the layers counts what runs."""
        keys = tuple([PREFIX + layer.key for layer in layers if layer.counts == "running"])
        return Permit(keys, next(self._names)) if keys else None

    async def admit(
        self, layers: Sequence[Layer], permit: Permit | None, now: float
    ) -> RateLimitDecision:
        """Charge all layers, or none; ask together with all others that ask now.

        Raises:
            LimiterUnavailable: Redis does not answer. A permit that it may have given is taken back
                as soon as it does.
        """
        arguments: list[Any] = [len(layers), permit.name if permit else ""]
        for layer in layers:
            step = int(layer.seconds * 1000 / STEPS)
            arguments += (_KINDS[layer.counts], layer.limit, step)
        asked = _Asked([PREFIX + layer.key for layer in layers], arguments, permit, _millis(now))
        try:
            answer = await self._ask(asked)
        except asyncio.CancelledError:
            # Redis hears of it right behind the question, if that was sent at all.
            if permit is not None:
                self._give_back(permit)
            raise
        standings = [
            Standing(answer[i], answer[i + 1] / 1000, bool(answer[i + 2]))
            for i in range(1, len(answer), 3)
        ]
        if permit is not None and not answer[0]:
            self._running.add(permit)
        return RateLimitDecision(answer[0], standings)

    def leave(self, permit: Permit) -> None:
        """Give a permit back; the command is sent before this returns."""
        self._running.discard(permit)
        self._give_back(permit)

    async def spend(self, tokens: Mapping[str, int], now: float) -> None:
        """Charge tokens; what Redis cannot be told now it is told when it is back."""
        if not tokens:
            return
        arguments: list[Any] = [len(tokens), ""]
        for key, amount in tokens.items():
            arguments += ("s", amount, int(seconds_of(key) * 1000 / STEPS))
        asked = _Asked([PREFIX + key for key in tokens], arguments, None, _millis(now))
        try:
            await self._ask(asked)
        except LimiterUnavailable:
            self._unspent.update(tokens)

    async def run(self) -> None:
        """Keep the connection, and the permits of calls that run, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pipe.run())
            tasks.create_task(self._renew())

    async def tried(self) -> None:
        """Wait until Redis was tried once, for whatever that gave."""
        await self._pipe.tried.wait()

    async def _ask(self, asked: _Asked) -> list[int]:
        self._asked.append(asked)
        if len(self._asked) == 1:
            # Whoever else is about to ask in this turn of the loop comes along.
            asyncio.get_running_loop().call_soon(self._send)
        try:
            return await asked.verdict
        except RedisUnavailable:
            raise LimiterUnavailable from None

    def _send(self) -> None:
        waiting = [asked for asked in self._asked if not asked.verdict.cancelled()]
        self._asked = []
        for start in range(0, len(waiting), MAX_BATCH):
            batch = waiting[start : start + MAX_BATCH]
            keys = [key for asked in batch for key in asked.keys]
            arguments = [argument for asked in batch for argument in asked.arguments]
            now = max(asked.now for asked in batch)
            try:
                answer = self._pipe.send(
                    "EVALSHA", SHA, len(keys), *keys, now, self._lasts, *arguments
                )
            except RedisUnavailable:
                for asked in batch:
                    _fail(asked.verdict)
                continue
            answer.add_done_callback(partial(self._decided, batch))

    def _decided(self, batch: Sequence[_Asked], answer: asyncio.Future[Any]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            for asked in batch:
                _fail(asked.verdict)
                if asked.permit is not None:
                    self._owed.append(asked.permit)  # Redis may have done what it could not say
            return
        for asked, verdict in zip(batch, answer.result(), strict=True):
            if not asked.verdict.done():
                asked.verdict.set_result(verdict)

    def _give_back(self, permit: Permit) -> None:
        try:
            for key in permit.keys:
                answer = self._pipe.send("ZREM", key, permit.name)
                answer.add_done_callback(partial(self._given_back, permit))
        except RedisUnavailable:
            self._owed.append(permit)

    def _given_back(self, permit: Permit, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            self._owed.append(permit)

    def _on_connect(self) -> None:
        """Tell Redis the script, and what it has missed."""
        self._pipe.send("SCRIPT", "LOAD", SCRIPT).add_done_callback(_heard)
        owed, self._owed = self._owed, []
        for permit in owed:
            self._give_back(permit)
        self._prolong()
        if self._unspent:
            unspent, self._unspent = self._unspent, Counter()
            task = asyncio.ensure_future(self.spend(unspent, self._clock.now().timestamp()))
            task.add_done_callback(_heard)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            self._prolong()

    def _prolong(self) -> None:
        until = _millis(self._clock.now().timestamp()) + self._lasts
        try:
            for permit in self._running:
                for key in permit.keys:
                    self._pipe.send("ZADD", key, until, permit.name).add_done_callback(_heard)
                    self._pipe.send("PEXPIRE", key, self._lasts + 60_000).add_done_callback(_heard)
        except RedisUnavailable:
            return  # whoever connects prolongs


def _millis(now: float) -> int:
    return int(now * 1000)


def _fail(verdict: asyncio.Future[Any]) -> None:
    if not verdict.done():
        verdict.set_exception(RedisUnavailable())


def _heard(answer: asyncio.Future[Any]) -> None:
    """Whether Redis said yes is told by the connection's end."""
    if not answer.cancelled():
        answer.exception()
