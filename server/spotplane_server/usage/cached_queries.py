"""Usage queries through the caches and the read replica.

Every query starts with one small read on the primary: the revision of the tenant's usage (see
`revisions`). A result cached under that revision is returned. Otherwise it is computed once for all
concurrent callers, on the read replica if its snapshot contains the revision, else on the primary.
So an acknowledged record is part of every later result, whatever is cached and however far the
replica lags behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import orjson
from google.protobuf.message import Message

from spotplane_server.kernel import metrics
from spotplane_server.kernel.caches import SingleFlight, TTLCache
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.db.read_replica import ReadReplica
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.tenants.errors import TenantNotFound
from spotplane_server.usage.redis_cache import RedisCache
from spotplane_server.usage.revisions import Revision, find_revision

M = TypeVar("M", bound=Message)
R = TypeVar("R")

# A revision invalidates a result when data is written. Partitions that retention drops write
# nothing: a result may include them for at most this long.
LIFETIME: Final = timedelta(seconds=30)
# The generic plan prunes partitions when it starts and needs no planning: 0.35 ms instead of 1 ms.
# PostgreSQL would not choose it by itself, because its estimate includes the partitions it prunes.
USE_GENERIC_PLANS: Final = "SET LOCAL plan_cache_mode = force_generic_plan"
# Fields of a request that `CacheableQuery.resolved` replaces in the cache key.
_RESOLVED: Final = ("start_date", "end_date", "page_token")


@dataclass(frozen=True, slots=True)
class CacheableQuery(Generic[R, M]):
    """A query whose result depends on nothing but itself and the revision of the tenant's usage.

    Attributes:
        tenant_id: The tenant.
        request: As received. Every field is part of the cache key, except dates and page token.
        resolved: What dates, page token and clock resolve to, as far as the result depends on them.
        response: The class of the result.
        load: Reads rows, in one snapshot.
        render: Makes the result of them.
        cacheable: False if no other caller can send the same query.
    """

    tenant_id: TenantId
    request: Message
    resolved: Sequence[Any]
    response: type[M]
    load: Callable[[Conn], Awaitable[R]]
    render: Callable[[R], M]
    cacheable: bool = True


class CachedQueries:
    """Runs usage queries.

    Args:
        db: The primary.
        clock: For lifetimes.
        cache: Results of this process.
        replica: None without a read replica.
        shared_cache: Results of all servers; None without Redis.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        cache: TTLCache,
        replica: ReadReplica | None = None,
        shared_cache: RedisCache | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._cache = cache
        self._replica = replica
        self._shared_cache = shared_cache
        self._flights: SingleFlight[bytes] = SingleFlight()

    async def fetch(self, query: CacheableQuery[R, M]) -> M:
        """Return the result of a query; the caller may change its copy.

        Raises:
            TenantNotFound: There is no such tenant.
        """
        async with self._db.connection(query.tenant_id) as conn:
            revision = await find_revision(conn, query.tenant_id)
        if revision is None:
            raise TenantNotFound(query.tenant_id)
        if not query.cacheable:
            return await self._compute(query, revision)
        key = _key(query, revision)
        cached = self._cache.get(key, self._clock.now())
        if cached is not None:
            metrics.ANSWERS.labels("hit").inc()
        else:
            if self._flights.under_way(key):
                metrics.ANSWERS.labels("joined").inc()
            cached = await self._flights.once(key, lambda: self._load(key, query, revision))
        return query.response.FromString(cached)

    async def _load(self, key: bytes, query: CacheableQuery[R, M], revision: Revision) -> bytes:
        shared = self._shared_cache
        found = await shared.get(key) if shared is not None else None
        metrics.ANSWERS.labels("miss" if found is None else "shared").inc()
        if found is None:
            found = (await self._compute(query, revision)).SerializeToString()
            if shared is not None:
                await shared.put(key, found, LIFETIME)
        self._cache.put(key, found, self._clock.now())
        return found

    async def _compute(self, query: CacheableQuery[R, M], revision: Revision) -> M:
        source = "primary"
        if self._replica is not None:
            rows = await self._replica.read(
                query.tenant_id, lambda conn: _load_if_current(conn, query, revision)
            )
            if rows:
                metrics.READS.labels("replica").inc()
                return query.render(rows[0])
            source = "away" if rows is None else "lagging"
        metrics.READS.labels(source).inc()
        async with self._db.transaction(
            query.tenant_id, isolation="repeatable_read", readonly=True
        ) as conn:
            return query.render(await _load(conn, query))


async def _load_if_current(
    conn: Conn, query: CacheableQuery[R, M], revision: Revision
) -> tuple[R] | tuple[()]:
    """Load the rows if the snapshot of the connection contains the revision."""
    present = await find_revision(conn, query.tenant_id)
    if present is None or not present.covers(revision):
        return ()
    return (await _load(conn, query),)


async def _load(conn: Conn, query: CacheableQuery[R, Any]) -> R:
    await conn.execute(USE_GENERIC_PLANS)
    return await query.load(conn)


def _key(query: CacheableQuery[Any, Any], revision: Revision) -> bytes:
    request = type(query.request)()
    request.CopyFrom(query.request)
    for name in _RESOLVED:
        if name in request.DESCRIPTOR.fields_by_name:
            request.ClearField(name)
    parts = [
        str(query.tenant_id),
        request.DESCRIPTOR.full_name,
        query.response.DESCRIPTOR.full_name,
        request.SerializeToString(deterministic=True).hex(),
        [at.isoformat() if isinstance(at, datetime) else at for at in query.resolved],
        revision.status,
        revision.catalog,
        sorted(revision.slots.items()),
    ]
    return hashlib.sha256(orjson.dumps(parts)).digest()
