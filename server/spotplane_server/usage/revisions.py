"""Revisions of a tenant's usage: a cached result is valid while they are unchanged.

Triggers increment them in every transaction that changes a result: the tenant's own when records
are stored, rollups are rebuilt or a key is renamed; one for all tenants when a model or a region is
renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

FIND_REVISION: Final = """
    SELECT t.status, n.revision AS catalog, r.slots, r.revisions
      FROM tenants t
     CROSS JOIN catalog_names n
     CROSS JOIN LATERAL
           (SELECT array_agg(u.slot ORDER BY u.slot) AS slots,
                   array_agg(u.revision ORDER BY u.slot) AS revisions
              FROM usage_revisions u
             WHERE u.tenant_id = t.id) AS r
     WHERE t.id = $1
"""

# A slot of its own: a rebuild works in a snapshot, which ingest must not abort by incrementing the
# same row.
INCREMENT_AFTER_REBUILD: Final = """
    INSERT INTO usage_revisions AS r (tenant_id, slot, revision)
    VALUES ($1, 8, 1)
    ON CONFLICT (tenant_id, slot) DO UPDATE SET revision = r.revision + 1
"""


@dataclass(frozen=True, slots=True)
class Revision:
    """The revision of one tenant's usage in one snapshot.

    Attributes:
        status: The tenant's status.
        catalog: Revision of the names of models and regions.
        slots: Revision of the tenant's usage by slot.
    """

    status: str
    catalog: int
    slots: Mapping[int, int]

    def covers(self, other: Revision) -> bool:
        """Whether this snapshot contains everything that the other one contains."""
        return self.catalog >= other.catalog and all(
            self.slots.get(slot, 0) >= revision for slot, revision in other.slots.items()
        )


async def find_revision(conn: Conn, tenant_id: TenantId) -> Revision | None:
    """Read a tenant's revision; None when there is no such tenant."""
    row = await conn.fetchrow(FIND_REVISION, tenant_id)
    if row is None:
        return None
    slots = dict(zip(row["slots"] or (), row["revisions"] or (), strict=True))
    return Revision(row["status"], row["catalog"], slots)


async def increment_after_rebuild(conn: Conn, tenant_id: TenantId) -> None:
    """Invalidate cached results, in the transaction that rebuilds rollups."""
    await conn.execute(INCREMENT_AFTER_REBUILD, tenant_id)
