"""Enforces rate limits on authenticated calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from spotplane_server.kernel import metrics
from spotplane_server.kernel.auth import policy, spend_limits
from spotplane_server.kernel.auth.authenticator import CACHE_SIZE, VerifiedCaller
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.ratelimit import limiter
from spotplane_server.kernel.ratelimit import policy as rate_limit_policy
from spotplane_server.kernel.ratelimit.limiter import (
    Layer,
    LocalRateLimiter,
    Permit,
    RateLimitDecision,
    RateLimiter,
    RateLimitExceeded,
)
from spotplane_server.kernel.ratelimit.redis_limiter import LimiterUnavailable
from spotplane_server.kernel.request_context import Call, Caller

log = structlog.get_logger(__name__)

# Windows that filled up and are not yet told; whoever fills more has other troubles.
MAX_UNTOLD: Final = 1000


@dataclass(frozen=True, slots=True)
class ThresholdReached:
    """A window that is filled up to the threshold.

    Attributes:
        caller: Whose call filled it.
        layer: The budget.
        used: Of its limit.
        correlation_id: Of the call.
    """

    caller: Caller
    layer: Layer
    used: int
    correlation_id: str


class RateLimitEnforcer:
    """Draws on budgets.

    Args:
        shared: Budgets of keys, environments, tenants and administrators.
        own: Budgets of this process: of the fleet, where a server protects itself.
        clock: For windows.
        tenant_rpm: Requests a minute of a whole tenant.
        tell: Told of windows that fill up, beside the calls.
    """

    def __init__(
        self,
        shared: RateLimiter,
        own: LocalRateLimiter,
        clock: Clock,
        *,
        tenant_rpm: int,
        tell: Callable[[Sequence[ThresholdReached]], Awaitable[None]],
    ) -> None:
        self._shared = shared
        self._own = own
        self._clock = clock
        self._tenant_rpm = tenant_rpm
        self._tell = tell
        self._layers: dict[tuple[bytes, bool], tuple[VerifiedCaller, list[Layer]]] = {}
        self._reached: asyncio.Queue[ThresholdReached] = asyncio.Queue(MAX_UNTOLD)

    async def admit(
        self, access: policy.Access, call: Call, verified: VerifiedCaller
    ) -> Permit | None:
        """Charge a call to all its budgets, or to none; give its permit to `leave`.

        A call of the fleet is charged by `charge_fleet`; here its credential's budget must not be
        used up.

        Raises:
            BudgetExceeded: A spend budget stops the caller.
            LimitReached: A budget is used up.
            LimiterUnavailable: The shared budgets cannot be read.
        """
        instant = self._clock.now()
        spend_limits.check(access, verified.stop, instant)
        now = instant.timestamp()
        if access.fleet:
            layers = rate_limit_policy.fleet(access, verified)
            verdict = self._own.decide(layers, now, charge=False)
            if verdict.refused:
                self._check(call, layers, verdict, now)
            return None
        layers = self._of(verified, access.endless)
        permit = self._shared.permit(layers)
        try:
            verdict = await self._shared.admit(layers, permit, now)
        except LimiterUnavailable as err:
            metrics.LIMITED.labels(err.reason).inc()
            raise
        self._note(call, layers, verdict)
        self._check(call, layers, verdict, now)
        return permit

    def charge_fleet(
        self,
        access: policy.Access | None,
        call: Call,
        verified: VerifiedCaller | None,
        agent_id: str,
    ) -> None:
        """Charge a call of the fleet to its credential and its agent, or to neither.

        It comes after `admit`, because the agent is named by the request. Other calls pass.

        Raises:
            LimitReached: A budget is used up.
        """
        if access is None or verified is None or not access.fleet:
            return
        now = self._clock.now().timestamp()
        layers = rate_limit_policy.fleet(access, verified, agent_id)
        self._check(call, layers, self._own.decide(layers, now), now)

    def _check(
        self, call: Call, layers: Sequence[Layer], verdict: RateLimitDecision, now: float
    ) -> None:
        if call.caller.kind == "tenant" or verdict.refused:
            call.headers.update(limiter.headers(layers, verdict))
        try:
            limiter.check(layers, verdict, now)
        except RateLimitExceeded as err:
            metrics.LIMITED.labels(err.reason).inc()
            raise

    def leave(self, permit: Permit | None) -> None:
        """Give back what a call held."""
        if permit is not None:
            self._shared.leave(permit)

    async def announce(self) -> None:
        """Tell of windows that filled up, until cancelled."""
        while True:
            found = [await self._reached.get()]
            while not self._reached.empty():
                found.append(self._reached.get_nowait())
            try:
                await self._tell(found)
            except Exception:
                log.warning("thresholds_not_told", count=len(found), exc_info=True)

    def _of(self, verified: VerifiedCaller, endless: bool) -> list[Layer]:
        known = self._layers.get((verified.hashed, endless))
        if known is not None and known[0] is verified:
            return known[1]
        found = rate_limit_policy.layers(verified, tenant_rpm=self._tenant_rpm, endless=endless)
        if len(self._layers) >= CACHE_SIZE:
            self._layers.clear()
        self._layers[verified.hashed, endless] = verified, found
        return found

    def _note(self, call: Call, layers: Sequence[Layer], verdict: RateLimitDecision) -> None:
        for layer, standing in zip(layers, verdict.standings, strict=True):
            if standing.reached and call.caller.kind == "tenant" and not self._reached.full():
                self._reached.put_nowait(
                    ThresholdReached(call.caller, layer, standing.used, call.correlation_id)
                )
