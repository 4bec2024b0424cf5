"""What an answer about usage rests on, as numbers: an answer is current while they are.

The database raises them in every transaction that changes an answer: the tenant's own when records
come, sums are mended or a key gets another name; one for all when a model or a region does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn

FIND_VERSION: Final = """
    SELECT t.status, n.revision AS names, r.slots, r.revisions
      FROM tenants t
     CROSS JOIN catalog_names n
     CROSS JOIN LATERAL
           (SELECT array_agg(u.slot ORDER BY u.slot) AS slots,
                   array_agg(u.revision ORDER BY u.slot) AS revisions
              FROM usage_revisions u
             WHERE u.tenant_id = t.id) AS r
     WHERE t.id = $1
"""

# A slot of its own: mending works in a snapshot, which ingest must not end by raising the same one.
RAISE_BY_MENDING: Final = """
    INSERT INTO usage_revisions AS r (tenant_id, slot, revision)
    VALUES ($1, 8, 1)
    ON CONFLICT (tenant_id, slot) DO UPDATE SET revision = r.revision + 1
"""


@dataclass(frozen=True, slots=True)
class Version:
    """Of one tenant, as one snapshot shows it.

    Attributes:
        status: The tenant's.
        names: Revision of what models and regions are called.
        revisions: Of the tenant's usage, by slot.
    """

    status: str
    names: int
    revisions: Mapping[int, int]

    def covers(self, other: Version) -> bool:
        """Whether this snapshot shows all that the other one shows."""
        return self.names >= other.names and all(
            self.revisions.get(slot, 0) >= revision for slot, revision in other.revisions.items()
        )


async def find_version(conn: Conn, tenant_id: TenantId) -> Version | None:
    """Read a tenant's version; None when there is no such tenant."""
    row = await conn.fetchrow(FIND_VERSION, tenant_id)
    if row is None:
        return None
    revisions = dict(zip(row["slots"] or (), row["revisions"] or (), strict=True))
    return Version(row["status"], row["names"], revisions)


async def raise_by_mending(conn: Conn, tenant_id: TenantId) -> None:
    """Say that sums were mended, in the transaction that does it."""
    await conn.execute(RAISE_BY_MENDING, tenant_id)
