"""Quotas: the maximum number of resources of a tenant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.errors import Exhausted

# Above the number of connections of any PostgreSQL: so many transactions at once cannot pass a
# quota that is still this far away, so they need not wait for each other.
MARGIN: Final = 1000
# Resources are freed by people or by expiry, so that an immediate repeat is of no use.
RETRY_AFTER_SECONDS: Final = 3600.0

LOCK_QUOTA: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"


class QuotaExceeded(Exhausted):
    """The tenant has as many of a resource as it may."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, resource: str, *, limit: int, used: int) -> None:
        super().__init__(
            f"the tenant may have {limit} {resource.replace('_', ' ')} and has {used}",
            retry_after_seconds=RETRY_AFTER_SECONDS,
            metadata={"quota": resource, "limit": str(limit), "used": str(used)},
        )


async def admit(
    conn: Conn, tenant_id: UUID, resource: str, limit: int, count: Callable[[], Awaitable[int]]
) -> None:
    """Admit one more of a resource.

    Call it after the tenant's row is locked and before the resource is inserted, in one
    transaction. Near the limit, transactions that add to it wait for each other here.

    Args:
        conn: In that transaction.
        tenant_id: Whose resource it is.
        resource: In the plural, as error messages name it.
        limit: Most that the tenant may have.
        count: Counts what it has.

    Raises:
        QuotaExceeded: The tenant has as many already.
    """
    if await count() < limit - MARGIN:
        return
    await conn.execute(LOCK_QUOTA, f"quota/{resource}/{tenant_id}")
    used = await count()
    if used >= limit:
        raise QuotaExceeded(resource, limit=limit, used=used)
