"""Store of tenants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn, constraints
from spotplane_server.tenants.errors import EmailTaken, TenantNotFound

MAX_NAME: Final = 255

INSERT_TENANT: Final = """
    INSERT INTO tenants (id, name, email, billing_plan, metadata, region_preferences, created_at,
                         updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
    RETURNING id, name, email, status, billing_plan, metadata, region_preferences, suspension_id,
              suspension_reason, suspension_notes, suspended_at, created_at, updated_at, deleted_at
"""

# Waits for a concurrent insert of the same e-mail, then inserts nothing.
TRY_INSERT_TENANT: Final = """
    INSERT INTO tenants (id, name, email, billing_plan, metadata, region_preferences, created_at,
                         updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
    ON CONFLICT (lower(email)) WHERE deleted_at IS NULL DO NOTHING
    RETURNING id, name, email, status, billing_plan, metadata, region_preferences, suspension_id,
              suspension_reason, suspension_notes, suspended_at, created_at, updated_at, deleted_at
"""

INSERT_ENVIRONMENT: Final = """
    INSERT INTO environments (tenant_id, id, name, region_code, created_at)
    VALUES ($1, $2, $3, $4, $5)
"""

FIND_BY_EMAIL: Final = """
    SELECT id, status
      FROM tenants
     WHERE lower(email) = lower($1)
       AND deleted_at IS NULL
"""

GET_TENANT: Final = """
    SELECT id, name, email, status, billing_plan, metadata, region_preferences, suspension_id,
           suspension_reason, suspension_notes, suspended_at, created_at, updated_at, deleted_at
      FROM tenants
     WHERE id = $1
"""

# The advisory lock prevents `tenant_scope.hold_tenant` from overtaking this lock.
LOCK_TENANT: Final = """
    WITH turn AS MATERIALIZED (
        SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text, 0)))
    SELECT t.id, t.name, t.email, t.status, t.billing_plan, t.metadata, t.region_preferences,
           t.suspension_id, t.suspension_reason, t.suspension_notes, t.suspended_at, t.created_at,
           t.updated_at, t.deleted_at
      FROM turn, tenants t
     WHERE t.id = $1
       FOR NO KEY UPDATE OF t
"""

UPDATE_TENANT: Final = """
    UPDATE tenants
       SET name = $2, email = $3, billing_plan = $4, metadata = $5, region_preferences = $6,
           updated_at = $7
     WHERE id = $1
    RETURNING id, name, email, status, billing_plan, metadata, region_preferences, suspension_id,
              suspension_reason, suspension_notes, suspended_at, created_at, updated_at, deleted_at
"""

MARK_SUSPENDED: Final = """
    UPDATE tenants
       SET status = 'suspended', suspension_id = $2, suspension_reason = $3, suspension_notes = $4,
           suspended_at = $5, updated_at = $5
     WHERE id = $1
    RETURNING id, name, email, status, billing_plan, metadata, region_preferences, suspension_id,
              suspension_reason, suspension_notes, suspended_at, created_at, updated_at, deleted_at
"""

MARK_ACTIVE: Final = """
    UPDATE tenants
       SET status = 'active', suspension_id = NULL, suspension_reason = NULL,
           suspension_notes = $2, suspended_at = NULL, updated_at = $3
     WHERE id = $1
    RETURNING id, name, email, status, billing_plan, metadata, region_preferences, suspension_id,
              suspension_reason, suspension_notes, suspended_at, created_at, updated_at, deleted_at
"""

MARK_DELETED: Final = """
    UPDATE tenants
       SET status = 'deleted', suspension_id = NULL, suspended_at = NULL, deleted_at = $2,
           updated_at = $2
     WHERE id = $1
"""

# The count is from the same snapshot as the page, and is returned for an empty page too.
LIST_TENANTS: Final = """
    SELECT c.total, t.id, t.name, t.email, t.status, t.billing_plan, t.metadata,
           t.region_preferences, t.suspension_id, t.suspension_reason, t.suspension_notes,
           t.suspended_at, t.created_at, t.updated_at, t.deleted_at
      FROM (SELECT count(*) AS total
              FROM tenants
             WHERE ($1::text IS NULL OR status = $1)
               AND ($2::text IS NULL OR position(lower($2) IN lower(name)) > 0
                                     OR position(lower($2) IN lower(email)) > 0)) c
      LEFT JOIN LATERAL (
            SELECT id, name, email, status, billing_plan, metadata, region_preferences,
                   suspension_id, suspension_reason, suspension_notes, suspended_at, created_at,
                   updated_at, deleted_at
              FROM tenants
             WHERE ($1::text IS NULL OR status = $1)
               AND ($2::text IS NULL OR position(lower($2) IN lower(name)) > 0
                                     OR position(lower($2) IN lower(email)) > 0)
               AND ($3::timestamptz IS NULL OR created_at < $3 OR (created_at = $3 AND id > $4))
             ORDER BY created_at DESC, id
             LIMIT $5 OFFSET $6) t ON true
     ORDER BY t.created_at DESC, t.id
"""

SUM_TOTALS: Final = """
    SELECT t.id, coalesce(k.keys, 0) AS keys, coalesce(u.nanos, 0) AS spend_nanos
      FROM unnest($1::uuid[]) AS t (id)
      LEFT JOIN (SELECT tenant_id, count(*) AS keys
                   FROM api_keys
                  WHERE tenant_id = ANY ($1)
                    AND status <> 'revoked'
                  GROUP BY tenant_id) k ON k.tenant_id = t.id
      LEFT JOIN (SELECT tenant_id, sum(cost_nanos)::bigint AS nanos
                   FROM usage_rollups
                  WHERE tenant_id = ANY ($1) AND rollup = 'day'
                  GROUP BY tenant_id) u ON u.tenant_id = t.id
"""


COUNT_BY_STATUS: Final = """
    SELECT 'tenant' AS kind, status, count(*) AS total FROM tenants GROUP BY status
    UNION ALL
    SELECT 'api_key', status, count(*) FROM api_keys GROUP BY status
"""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant."""

    id: UUID
    name: str
    email: str
    status: str
    billing_plan: str
    metadata: dict[str, Any]
    region_preferences: dict[str, Any]
    suspension_id: UUID | None
    suspension_reason: str | None
    suspension_notes: str | None
    suspended_at: datetime | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class TenantDraft:
    """A tenant to be created."""

    id: UUID
    name: str
    email: str
    billing_plan: str
    metadata: dict[str, Any]
    region_preferences: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Totals:
    """Number of keys and total spend of a tenant."""

    keys: int = 0
    spend_nanos: int = 0


async def insert_tenant(conn: Conn, draft: TenantDraft, *, now: datetime) -> Tenant:
    """Create a tenant.

    Raises:
        EmailTaken: Another tenant that is not deleted has the e-mail.
    """
    with constraints(tenants_email_key=EmailTaken()):
        return _tenant(await conn.fetchrow(INSERT_TENANT, *_values(draft), now))


async def try_insert_tenant(conn: Conn, draft: TenantDraft, *, now: datetime) -> Tenant | None:
    """Create a tenant; return None if another tenant that is not deleted has the e-mail."""
    row = await conn.fetchrow(TRY_INSERT_TENANT, *_values(draft), now)
    return None if row is None else _tenant(row)


async def insert_environment(
    conn: Conn, tenant_id: UUID, environment_id: UUID, name: str, region_code: str, *, now: datetime
) -> None:
    """Create an active environment with keys labelled ``live``."""
    await conn.execute(INSERT_ENVIRONMENT, tenant_id, environment_id, name, region_code, now)


async def find_by_email(conn: Conn, email: str) -> tuple[UUID, str] | None:
    """Find id and status of the tenant with this e-mail that is not deleted."""
    row = await conn.fetchrow(FIND_BY_EMAIL, email)
    return None if row is None else (row["id"], row["status"])


async def count_by_status(conn: Conn) -> dict[str, dict[str, int]]:
    """Count tenants (``tenant``) and keys (``api_key``) by status."""
    found: dict[str, dict[str, int]] = {"tenant": {}, "api_key": {}}
    for row in await conn.fetch(COUNT_BY_STATUS):
        found[row["kind"]][row["status"]] = row["total"]
    return found


async def get_tenant(conn: Conn, tenant_id: UUID) -> Tenant:
    """Return a tenant, also if deleted.

    Raises:
        TenantNotFound: There is no such tenant.
    """
    row = await conn.fetchrow(GET_TENANT, tenant_id)
    if row is None:
        raise TenantNotFound(tenant_id)
    return _tenant(row)


async def lock_tenant(conn: Conn, tenant_id: UUID) -> Tenant | None:
    """Lock a tenant and its keys until the transaction ends."""
    row = await conn.fetchrow(LOCK_TENANT, tenant_id)
    return None if row is None else _tenant(row)


async def update_tenant(conn: Conn, tenant: Tenant, *, now: datetime) -> Tenant:
    """Update name, e-mail, plan, metadata and preferences.

    Raises:
        EmailTaken: Another tenant that is not deleted has the e-mail.
    """
    with constraints(tenants_email_key=EmailTaken()):
        return _tenant(
            await conn.fetchrow(
                UPDATE_TENANT,
                tenant.id,
                tenant.name,
                tenant.email,
                tenant.billing_plan,
                tenant.metadata,
                tenant.region_preferences,
                now,
            )
        )


async def mark_suspended(
    conn: Conn,
    tenant_id: UUID,
    suspension_id: UUID,
    *,
    reason: str | None,
    notes: str | None,
    now: datetime,
) -> Tenant:
    """Suspend a tenant locked by the caller."""
    return _tenant(
        await conn.fetchrow(MARK_SUSPENDED, tenant_id, suspension_id, reason, notes, now)
    )


async def mark_active(conn: Conn, tenant_id: UUID, *, notes: str | None, now: datetime) -> Tenant:
    """End the suspension of a tenant locked by the caller."""
    return _tenant(await conn.fetchrow(MARK_ACTIVE, tenant_id, notes, now))


async def mark_deleted(conn: Conn, tenant_id: UUID, *, now: datetime) -> None:
    """Mark a tenant locked by the caller as deleted."""
    await conn.execute(MARK_DELETED, tenant_id, now)


async def list_tenants(
    conn: Conn, page: Page, *, status: str | None, search: str | None
) -> Slice[Tenant]:
    """List tenants, newest first."""
    created_at, tenant_id = page.after_instant()
    rows = await conn.fetch(
        LIST_TENANTS, status, search, created_at, tenant_id, page.limit + 1, page.offset
    )
    return Slice([_tenant(row) for row in rows if row["id"] is not None], rows[0]["total"])


async def sum_totals(conn: Conn, tenant_ids: Sequence[UUID]) -> dict[UUID, Totals]:
    """Return the number of unrevoked keys and the spend of each tenant."""
    rows = await conn.fetch(SUM_TOTALS, list(tenant_ids))
    return {row["id"]: Totals(row["keys"], row["spend_nanos"]) for row in rows}


def _values(draft: TenantDraft) -> tuple[Any, ...]:
    return (
        draft.id,
        draft.name,
        draft.email,
        draft.billing_plan,
        draft.metadata,
        draft.region_preferences,
    )


def _tenant(row: asyncpg.Record | None) -> Tenant:
    assert row is not None, "the caller holds the row's lock, or has just written it"
    return Tenant(**{name: row[name] for name in Tenant.__slots__})
