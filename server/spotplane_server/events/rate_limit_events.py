"""Publishes events when a tenant approaches a rate limit."""

from __future__ import annotations

from collections.abc import Sequence

from spotplane_server.events.store import Event, append
from spotplane_server.kernel import request_context
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.ratelimit.enforcer import ThresholdReached
from spotplane_server.kernel.request_context import Call

_AGGREGATES = {"ENVIRONMENT_LIMIT": "environment_id", "TENANT_LIMIT": "tenant_id"}


class Thresholds:
    """Writes `ratelimit.threshold_reached`, once a budget and window."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def tell(self, found: Sequence[ThresholdReached]) -> None:
        """Write events; the calls that filled the budgets are answered already."""
        now = self._clock.now()
        async with self._db.transaction(ALL_TENANTS) as conn:
            for reached in found:
                with request_context.serving(Call("", reached.correlation_id)):
                    await append(conn, _event(reached), now)


def _event(reached: ThresholdReached) -> Event:
    caller, layer = reached.caller, reached.layer
    named = {
        "api_key_id": caller.id,
        "environment_id": str(caller.environment_id),
        "tenant_id": str(caller.tenant_id),
    }
    aggregate = named[_AGGREGATES.get(layer.reason, "api_key_id")]
    data = {
        "api_key_id": caller.id,
        "environment_id": str(caller.environment_id),
        "layer": layer.reason,
        "counts": {"calls": "requests", "running": "concurrency"}.get(layer.counts, layer.counts),
        "limit": layer.limit,
        "used": reached.used,
        "window_seconds": int(layer.seconds),
    }
    return Event("ratelimit.threshold_reached", aggregate, data, caller.tenant_id)
