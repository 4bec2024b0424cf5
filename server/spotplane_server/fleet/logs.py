"""An instance's log, as people read it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from spotplane.v1 import fleet_pb2 as pb

from spotplane_server.fleet import log_queries as store
from spotplane_server.fleet.log_queries import Happened, Priced, Switched
from spotplane_server.fleet.queries import Found
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import Conn

KEPT_FOR: Final = timedelta(days=90)

# Severity and text of the events that a log shows; an event may bring its own. Switches are read
# from their table, which knows both instances of each.
_EVENTS: Final[dict[str, tuple[str, str]]] = {
    "agent.registered": ("info", "Its agent registered"),
    "instance.displaced": ("warning", "Another instance registered under its agent's name"),
    "instance.extra": ("warning", "It was not needed and is kept until somebody ends it"),
    "instance.registered": ("info", "It was registered"),
    "instance.status_changed": ("info", "It has ended"),
    "instance.termination_failed": ("error", "It could not be ended"),
    "manual_switch.requested": ("info", "A switch was requested"),
    "decision.made": ("info", "A decision was made"),
    "decision.error": ("error", "The decision engine failed"),
    "replica.created": ("info", "A replica was requested"),
    "replica.ready": ("info", "It stands by"),
    "replica.failed": ("warning", "It failed as a replica"),
    "replica.promoted": ("info", "It was promoted"),
    "replica.terminated": ("info", "It was given up as a replica"),
    "rebalance.recommendation": ("warning", "The cloud recommends to leave it"),
    "termination.notice": ("error", "The cloud announced its end"),
    "emergency.bypass": ("warning", "An emergency overrode settings"),
    "cleanup.completed": ("info", "Images and snapshots were cleaned up"),
}
_SEVERITIES: Final = frozenset({"info", "warning", "error"})
# Members that an entry shows at places of their own.
_SHOWN: Final = frozenset({"severity", "message", "correlation_id", "reason"})


async def read(conn: Conn, instance: Found, *, limit: int, now: datetime) -> list[pb.InstanceLog]:
    """The newest entries of an instance's log, newest first."""
    since = now - KEPT_FOR
    tenant_id, spot = instance.tenant_id, instance.mode == "spot"
    happened = await store.list_events(
        conn, tenant_id, instance.id, types=list(_EVENTS), since=since, limit=limit
    )
    priced = await store.list_prices(
        conn, tenant_id, instance.id, spot=spot, since=since, limit=limit
    )
    switched = await store.list_switches(conn, tenant_id, instance.id, since=since, limit=limit)
    entries = [
        *(_event(row, instance) for row in happened),
        *(_price(row, instance) for row in priced),
        *(_switch(row, instance) for row in switched),
    ]
    entries.sort(key=lambda entry: entry.timestamp.ToNanoseconds(), reverse=True)
    return entries[:limit]


def _event(row: Happened, instance: Found) -> pb.InstanceLog:
    severity, text = _EVENTS[row.event_type]
    said, data = str(row.data.get("severity") or ""), row.data
    ended = row.event_type == "instance.status_changed"
    return pb.InstanceLog(
        timestamp=wire.timestamp(row.occurred_at),
        event_type="termination" if ended else row.event_type.replace(".", "_"),
        status="failed" if row.event_type.endswith("failed") else "success" if ended else "info",
        severity=said if said in _SEVERITIES else severity,
        message=str(data.get("message") or text),
        from_value=_text(data.get("old_status") or data.get("old_instance_id")),
        to_value=_text(data.get("new_status") or data.get("new_instance_id")),
        reason=_text(data.get("reason")),
        instance_type=instance.instance_type,
        metadata=wire.struct({k: v for k, v in data.items() if k not in _SHOWN}),
    )


def _price(row: Priced, instance: Found) -> pb.InstanceLog:
    return pb.InstanceLog(
        timestamp=wire.timestamp(row.at),
        event_type="pricing_update",
        status="info",
        severity="info",
        message="Its price changed" if row.before_nanousd is not None else "Its price is known",
        from_value=None if row.before_nanousd is None else _dollars(row.before_nanousd),
        to_value=_dollars(row.price_nanousd),
        instance_type=instance.instance_type,
        price_nanousd=row.price_nanousd,
        metadata=wire.struct({"mode": instance.mode, "pool_id": instance.pool_id}),
    )


def _switch(row: Switched, instance: Found) -> pb.InstanceLog:
    return pb.InstanceLog(
        timestamp=wire.timestamp(row.created_at),
        event_type="switch",
        status="success" if row.success else "failed",
        severity="info" if row.success else "error",
        message=_story(row, instance),
        from_value=row.old_pool_id or row.old_mode,
        to_value=row.new_pool_id or row.new_mode,
        savings_nanousd=row.savings_impact_nanousd,
        reason=row.error_message or row.trigger.lower(),
        instance_type=instance.instance_type,
        price_nanousd=row.new_price_nanousd,
        metadata=wire.struct(
            {
                "switch_id": str(row.id),
                "old_instance_id": row.old_instance_id,
                "new_instance_id": row.new_instance_id,
                "trigger": row.trigger,
                "cause": row.cause,
                "downtime_seconds": row.downtime_seconds,
            }
        ),
    )


def _story(row: Switched, instance: Found) -> str:
    if not row.success:
        return "A switch failed"
    if row.old_instance_id == row.new_instance_id:
        return f"It was switched in place to {row.new_mode}"
    if row.new_instance_id == instance.id:
        return f"Its agent switched to it from {row.old_instance_id or 'nothing'}"
    return f"Its agent switched from it to {row.new_instance_id}"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _dollars(nanousd: int) -> str:
    return f"{nanousd / 10**9:.6f}"
