"""The one way by which answers about usage are read: kept ones, the replica, the primary.

Every question begins with one small read on the primary: the tenant's version, see `versions`. An
answer kept under that version is told again. Otherwise it is worked out, once for all who ask at
the time, on the replica if its snapshot shows all that the version stands for, else on the primary.
So a record is in every answer from its acknowledgement on, whatever is kept and however far behind
the replica is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import orjson
from google.protobuf.message import Message

from spotplane_server.kernel import metrics
from spotplane_server.kernel.caches import Flights, Kept
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Conn, Database
from spotplane_server.kernel.replica import Replica
from spotplane_server.tenants.errors import TenantNotFound
from spotplane_server.usage.shared import SharedAnswers
from spotplane_server.usage.versions import Version, find_version

M = TypeVar("M", bound=Message)

# Versions say when an answer is not current any more. What they do not say, months that retention
# drops, is not told for longer than this.
LIFETIME: Final = timedelta(seconds=30)
# What `Question.resolved` stands for.
_RESOLVED: Final = ("start_date", "end_date", "page_token")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; equal ones have equal answers under one version.

    Attributes:
        tenant_id: Of whom.
        request: As sent. All of it counts but dates and page token.
        resolved: What those and the clock came to, as far as the answer depends on them.
        kept: Whether anybody can ask it again.
    """

    tenant_id: TenantId
    request: Message
    resolved: Sequence[Any]
    kept: bool = True


class Reading:
    """Answers questions about usage.

    Args:
        db: The primary.
        clock: For lifetimes.
        answers: Of this process.
        replica: None without one.
        shared: Of all servers; None without.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        answers: Kept,
        replica: Replica | None = None,
        shared: SharedAnswers | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._answers = answers
        self._replica = replica
        self._shared = shared
        self._flights: Flights[bytes] = Flights()

    async def ask(
        self, question: Question, kind: type[M], work: Callable[[Conn], Awaitable[M]]
    ) -> M:
        """Answer a question.

        Args:
            question: What is asked.
            kind: The answer's class.
            work: Works the answer out, in one snapshot; from nothing but the question.

        Returns:
            The caller's own copy.

        Raises:
            TenantNotFound: There is no such tenant.
        """
        async with self._db.read(question.tenant_id) as conn:
            version = await find_version(conn, question.tenant_id)
        if version is None:
            raise TenantNotFound(question.tenant_id)
        if not question.kept:
            return await self._work_out(question, version, work)
        key = _key(question, kind, version)
        told = self._answers.get(key, self._clock.now())
        if told is not None:
            metrics.ANSWERS.labels("hit").inc()
        else:
            if self._flights.under_way(key):
                metrics.ANSWERS.labels("joined").inc()
            told = await self._flights.once(key, lambda: self._find(key, question, version, work))
        return kind.FromString(told)

    async def _find(
        self,
        key: bytes,
        question: Question,
        version: Version,
        work: Callable[[Conn], Awaitable[Message]],
    ) -> bytes:
        found = await self._shared.get(key) if self._shared is not None else None
        metrics.ANSWERS.labels("miss" if found is None else "shared").inc()
        if found is None:
            found = (await self._work_out(question, version, work)).SerializeToString()
            if self._shared is not None:
                await self._shared.put(key, found, LIFETIME)
        self._answers.put(key, found, self._clock.now())
        return found

    async def _work_out(
        self, question: Question, version: Version, work: Callable[[Conn], Awaitable[M]]
    ) -> M:
        tenant_id = question.tenant_id
        source = "primary"
        if self._replica is not None:
            source = "away"

            async def from_replica(conn: Conn) -> tuple[M | None]:
                seen = await find_version(conn, tenant_id)
                current = seen is not None and seen.covers(version)
                return (await work(conn) if current else None,)

            tried = await self._replica.read(tenant_id, from_replica)
            if tried is not None:
                if tried[0] is not None:
                    metrics.READS.labels("replica").inc()
                    return tried[0]
                source = "lagging"
        metrics.READS.labels(source).inc()
        async with self._db.transaction(
            tenant_id, isolation="repeatable_read", readonly=True
        ) as conn:
            return await work(conn)


def _key(question: Question, kind: type[Message], version: Version) -> bytes:
    asked = type(question.request)()
    asked.CopyFrom(question.request)
    for name in _RESOLVED:
        if name in asked.DESCRIPTOR.fields_by_name:
            asked.ClearField(name)
    parts = [
        str(question.tenant_id),
        asked.DESCRIPTOR.full_name,
        kind.DESCRIPTOR.full_name,
        asked.SerializeToString(deterministic=True).hex(),
        [at.isoformat() if isinstance(at, datetime) else at for at in question.resolved],
        version.status,
        version.names,
        sorted(version.revisions.items()),
    ]
    return hashlib.sha256(orjson.dumps(parts)).digest()
