"""Suspension and activation of tenants and their keys.

A suspension has an id, stored with the tenant and with the keys that it suspended. Activation
restores only those keys, so that a key that an operator suspended stays suspended.
"""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from spotplane_server.kernel.auth.authenticator import bump_epoch
from spotplane_server.kernel.db.database import Conn
from spotplane_server.tenants import events, keys_store, rules, store
from spotplane_server.tenants.store import Tenant


async def suspend(
    conn: Conn, tenant: Tenant, *, reason: str | None, notes: str | None, now: datetime
) -> Tenant:
    """Suspend a tenant locked by the caller, and its active keys.

    Raises:
        TenantDeleted, TenantAlreadySuspended: It is not active.
    """
    rules.check_can_suspend(tenant.status)
    suspension_id = uuid4()
    after = await store.mark_suspended(
        conn, tenant.id, suspension_id, reason=reason, notes=notes, now=now
    )
    keys = await keys_store.suspend_keys(conn, tenant.id, suspension_id, now=now)
    await events.record_tenant_change(
        conn,
        tenant.id,
        ("suspend", "suspended"),
        before={"status": tenant.status},
        after={"status": after.status, "reason": reason, "notes": notes, "suspended_keys": keys},
        data={"reason": reason, "previous_status": tenant.status, "suspended_keys": keys},
        now=now,
    )
    await bump_epoch(conn)
    return after


async def activate(conn: Conn, tenant: Tenant, *, notes: str | None, now: datetime) -> Tenant:
    """Activate a tenant locked by the caller, and the keys of its suspension.

    Raises:
        TenantDeleted, TenantAlreadyActive: It is not suspended.
    """
    rules.check_can_activate(tenant.status)
    after = await store.mark_active(conn, tenant.id, notes=notes, now=now)
    keys = 0
    if tenant.suspension_id is not None:
        keys = await keys_store.restore_keys(conn, tenant.id, tenant.suspension_id, now=now)
    await events.record_tenant_change(
        conn,
        tenant.id,
        ("activate", "activated"),
        before={"status": tenant.status, "reason": tenant.suspension_reason},
        after={"status": after.status, "notes": notes, "restored_keys": keys},
        data={"restored_keys": keys},
        now=now,
    )
    await bump_epoch(conn)
    return after
