"""Audit rows and events of tenants, keys and environments, in the transaction of the change."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from spotplane_server import audit, events
from spotplane_server.kernel import request_context
from spotplane_server.kernel.db.database import Conn

log = structlog.get_logger(__name__)


async def record_tenant_change(
    conn: Conn,
    tenant_id: UUID,
    verb: tuple[str, str],
    *,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    data: dict[str, Any],
    now: datetime,
) -> None:
    """Record a change of a tenant.

    Args:
        conn: In the change's transaction.
        tenant_id: The tenant.
        verb: The audit action and the event type, e.g. ``("suspend", "suspended")``.
        before: Changed fields before.
        after: Changed fields after.
        data: Fields of the event.
        now: When.
    """
    change = audit.Change(
        f"tenant.{verb[0]}", "tenant", str(tenant_id), tenant_id, before=before, after=after
    )
    await _record(conn, change, events.Event(f"tenant.{verb[1]}", str(tenant_id), data), now)


async def record_key_change(
    conn: Conn,
    tenant_id: UUID,
    key_id: UUID,
    verb: tuple[str, str],
    *,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    data: dict[str, Any],
    now: datetime,
) -> None:
    """Record a change of a key, without secrets; arguments as for `record_tenant_change`."""
    change = audit.Change(
        f"api_key.{verb[0]}", "api_key", str(key_id), tenant_id, before=before, after=after
    )
    data = {"key_id": str(key_id), **data}
    await _record(conn, change, events.Event(f"apikey.{verb[1]}", str(key_id), data), now)


async def record_environment_change(
    conn: Conn,
    tenant_id: UUID,
    environment_id: UUID,
    *,
    before: dict[str, Any],
    after: dict[str, Any],
    now: datetime,
) -> None:
    """Record a change of an environment as an event of its tenant."""
    change = audit.Change(
        "environment.update",
        "environment",
        str(environment_id),
        tenant_id,
        before=before,
        after=after,
    )
    data = {"environment_id": str(environment_id), "changed": sorted(after)}
    await _record(conn, change, events.Event("tenant.updated", str(tenant_id), data), now)


async def _record(conn: Conn, change: audit.Change, event: events.Event, now: datetime) -> None:
    await audit.record(conn, request_context.current(), change, now)
    event = events.Event(event.type, event.aggregate_id, event.data, change.tenant_id)
    await events.append(conn, event, now)
    log.info(
        "changed",
        action=change.action,
        resource_id=change.resource_id,
        tenant_id=str(change.tenant_id),
        previous_status=(change.before or {}).get("status"),
    )
