"""Default resources of a new tenant."""

from __future__ import annotations

from uuid import uuid4

from spotplane_server.kernel.db.database import Conn
from spotplane_server.tenants import events, rules, store
from spotplane_server.tenants.store import Tenant


async def create_default_environment(conn: Conn, tenant: Tenant, region_code: str) -> None:
    """Create the first environment of a new tenant and record the tenant's creation."""
    await store.insert_environment(
        conn,
        tenant.id,
        uuid4(),
        rules.DEFAULT_ENVIRONMENT,
        region_code,
        now=tenant.created_at,
    )
    made = {
        "name": tenant.name,
        "email": tenant.email,
        "status": tenant.status,
        "tier": tenant.billing_plan,
    }
    await events.record_tenant_change(
        conn,
        tenant.id,
        ("create", "created"),
        before=None,
        after=made,
        data=made,
        now=tenant.created_at,
    )
