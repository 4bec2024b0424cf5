"""Rows of operations: machines that are to be launched or ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.nodes import rules

# A node has one open operation of a kind; asking again changes nothing.
INSERT_OPERATION: Final = """
    INSERT INTO node_operations (id, node_id, kind, provider, launch_id, spec, machine_id, stage,
                                 stages, available_at, deadline_at, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, 'queued', $8, $9, $10, $11, $11)
    ON CONFLICT (node_id, kind) WHERE status IN ('queued', 'running') DO NOTHING
"""

LEASE_OPERATIONS: Final = """
    UPDATE node_operations o
       SET status = 'running', holder = $1, leased_until = $5, attempt = o.attempt + 1,
           updated_at = $4
     WHERE o.id IN (SELECT id
                      FROM node_operations
                     WHERE status IN ('queued', 'running')
                       AND provider = ANY($2::text[])
                       AND available_at <= $4
                       AND deadline_at > $4
                       AND (leased_until IS NULL OR leased_until <= $4)
                     ORDER BY available_at, id
                     LIMIT $3
                       FOR UPDATE SKIP LOCKED)
    RETURNING o.id, o.kind, o.node_id, o.provider, o.launch_id, o.spec, o.machine_id, o.attempt,
              o.created_at
"""

# Stages only ever advance.
KEEP_OPERATION: Final = """
    UPDATE node_operations
       SET leased_until = $3,
           machine_id = coalesce($4, machine_id),
           stages = CASE WHEN $6::int > progress THEN stages || $7::jsonb ELSE stages END,
           stage = CASE WHEN $6 > progress THEN $5 ELSE stage END,
           progress = greatest(progress, $6),
           updated_at = $8
     WHERE id = $1 AND attempt = $2 AND status = 'running'
    RETURNING node_id, stage, progress
"""

# Whoever held a launch that was cancelled says that it has let go.
RELEASE_CLEANUP: Final = """
    UPDATE node_operations t
       SET available_at = least(t.available_at, $3),
           machine_id = coalesce(t.machine_id, $4),
           updated_at = $3
      FROM node_operations l
     WHERE l.id = $1
       AND l.attempt = $2
       AND l.status NOT IN ('queued', 'running')
       AND t.launch_id = l.id
       AND t.kind = 'terminate'
       AND t.status IN ('queued', 'running')
    RETURNING t.provider
"""

FIND_OPERATION: Final = """
    SELECT id, node_id, kind, status, provider, launch_id, spec, machine_id, attempt, failures,
           leased_until
      FROM node_operations
     WHERE id = $1
"""

LOCK_OPERATION: Final = """
    SELECT id, node_id, kind, status, provider, launch_id, spec, machine_id, attempt, failures,
           leased_until
      FROM node_operations
     WHERE id = $1
       FOR UPDATE
"""

LOCK_LAUNCH: Final = """
    SELECT id, node_id, kind, status, provider, launch_id, spec, machine_id, attempt, failures,
           leased_until
      FROM node_operations
     WHERE node_id = $1 AND kind = 'launch'
     ORDER BY created_at DESC
     LIMIT 1
       FOR UPDATE
"""

RETRY_OPERATION: Final = """
    UPDATE node_operations
       SET status = 'queued', leased_until = NULL, available_at = $2,
           failures = failures + CASE WHEN $4::text IS NULL THEN 0 ELSE 1 END,
           machine_id = coalesce($3, machine_id), error = coalesce($4, error), updated_at = $5
     WHERE id = $1
"""

FINISH_OPERATION: Final = """
    UPDATE node_operations
       SET status = $2, stage = coalesce($3, stage), stages = stages || $4::jsonb, error = $5,
           machine_id = coalesce($6, machine_id), leased_until = NULL, finished_at = $7,
           updated_at = $7
     WHERE id = $1
"""

# The node itself shows how far its launch is.
ADVANCE_LAUNCH: Final = """
    UPDATE node_operations
       SET stage = $2, progress = $3, stages = stages || $4::jsonb,
           status = CASE WHEN $2 = 'active' THEN 'succeeded' ELSE status END,
           finished_at = CASE WHEN $2 = 'active' THEN $5::timestamptz END,
           leased_until = CASE WHEN $2 = 'active' THEN NULL ELSE leased_until END,
           updated_at = $5
     WHERE node_id = $1
       AND kind = 'launch'
       AND status IN ('queued', 'running')
       AND progress < $3
    RETURNING provider, created_at
"""

LIST_OVERDUE: Final = """
    SELECT id, node_id, kind, status, provider, launch_id, spec, machine_id, attempt, failures,
           leased_until
      FROM node_operations
     WHERE status IN ('queued', 'running') AND deadline_at <= $1
     ORDER BY deadline_at
     LIMIT 100
"""

FIND_LAUNCH: Final = """
    SELECT o.id, o.node_id, n.cluster_name, o.status, o.stage, o.progress, o.stages, o.spec,
           o.error, o.created_at, o.finished_at
      FROM node_operations o
      JOIN nodes n ON n.id = o.node_id
     WHERE o.id = $1 AND o.kind = 'launch'
"""


@dataclass(frozen=True, slots=True)
class Operation:
    """What decides about an operation; ``attempt`` counts its leases."""

    id: UUID
    node_id: UUID
    kind: str
    status: str
    provider: str
    launch_id: UUID
    spec: dict[str, Any]
    machine_id: str | None
    attempt: int
    failures: int
    leased_until: datetime | None

    @property
    def is_open(self) -> bool:
        """Whether it is still to be done."""
        return self.status in ("queued", "running")


@dataclass(frozen=True, slots=True)
class Leased:
    """An operation that somebody is to do now."""

    id: UUID
    kind: str
    node_id: UUID
    provider: str
    launch_id: UUID
    spec: dict[str, Any]
    machine_id: str | None
    attempt: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """Where an operation stands whose lease was kept."""

    node_id: UUID
    stage: str
    progress: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """A launch that has reached another stage."""

    provider: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch as it is shown."""

    id: UUID
    node_id: UUID
    cluster_name: str
    status: str
    stage: str
    progress: int
    stages: list[dict[str, Any]]
    spec: dict[str, Any]
    error: str | None
    created_at: datetime
    finished_at: datetime | None


def stage_entry(stage: str, progress: int, now: datetime) -> list[dict[str, Any]]:
    """What is kept of a stage that begins."""
    return [{"stage": stage, "progress": progress, "started_at": now.isoformat()}]


async def insert(
    conn: Conn,
    operation_id: UUID,
    node_id: UUID,
    kind: str,
    *,
    provider: str,
    launch_id: UUID,
    spec: dict[str, Any],
    machine_id: str | None,
    available_at: datetime,
    deadline_at: datetime,
    now: datetime,
) -> None:
    """Store an operation unless one of its kind is open for the node."""
    await conn.execute(
        INSERT_OPERATION,
        operation_id,
        node_id,
        kind,
        provider,
        launch_id,
        spec,
        machine_id,
        stage_entry("queued", 0, now),
        available_at,
        deadline_at,
        now,
    )


async def lease(
    conn: Conn, holder: str, providers: Sequence[str], *, limit: int, now: datetime
) -> list[Leased]:
    """Lease up to ``limit`` operations that are due and nobody's, oldest first."""
    rows = await conn.fetch(LEASE_OPERATIONS, holder, providers, limit, now, now + rules.LEASE)
    return sorted((Leased(**row) for row in rows), key=lambda leased: leased.created_at)


async def keep(
    conn: Conn,
    operation_id: UUID,
    attempt: int,
    *,
    machine_id: str | None,
    stage: str,
    now: datetime,
) -> Kept | None:
    """Renew a lease and take down how far its holder is; None when it is not its lease any more."""
    progress = rules.PROGRESS[stage]
    row = await conn.fetchrow(
        KEEP_OPERATION,
        operation_id,
        attempt,
        now + rules.LEASE,
        machine_id,
        stage,
        progress,
        stage_entry(stage, progress, now),
        now,
    )
    return Kept(**row) if row is not None else None


async def release_cleanup(
    conn: Conn, launch_id: UUID, attempt: int, machine_id: str | None, now: datetime
) -> str | None:
    """Let what a cancelled launch has left be ended now; its provider, None when nothing waits."""
    provider: str | None = await conn.fetchval(RELEASE_CLEANUP, launch_id, attempt, now, machine_id)
    return provider


async def find(conn: Conn, operation_id: UUID) -> Operation | None:
    """Read an operation."""
    return _found(await conn.fetchrow(FIND_OPERATION, operation_id))


async def lock(conn: Conn, operation_id: UUID) -> Operation | None:
    """Hold an operation; hold its node first."""
    return _found(await conn.fetchrow(LOCK_OPERATION, operation_id))


async def lock_launch(conn: Conn, node_id: UUID) -> Operation | None:
    """Hold the launch of a node that is held; None for one that came by itself."""
    return _found(await conn.fetchrow(LOCK_LAUNCH, node_id))


async def retry(
    conn: Conn,
    held: Operation,
    *,
    at: datetime,
    machine_id: str | None,
    error: str | None,
    now: datetime,
) -> None:
    """Give a held operation back, to be tried again; without an error it has not failed."""
    await conn.execute(RETRY_OPERATION, held.id, at, machine_id, error, now)


async def finish(
    conn: Conn,
    held: Operation,
    status: str,
    *,
    error: str | None,
    now: datetime,
    machine_id: str | None = None,
) -> None:
    """End a held operation: ``succeeded``, ``failed`` or ``cancelled``."""
    stage = "failed" if status == "failed" else None
    entry = [{"stage": "failed", "progress": 100, "started_at": now.isoformat()}] if stage else []
    await conn.execute(FINISH_OPERATION, held.id, status, stage, entry, error, machine_id, now)


async def advance_launch(conn: Conn, node_id: UUID, stage: str, now: datetime) -> Advanced | None:
    """Take down that a node's launch has reached a stage; None when none is open or it had."""
    progress = rules.PROGRESS[stage]
    row = await conn.fetchrow(
        ADVANCE_LAUNCH, node_id, stage, progress, stage_entry(stage, progress, now), now
    )
    return Advanced(**row) if row is not None else None


async def list_overdue(conn: Conn, now: datetime) -> list[Operation]:
    """Open operations whose deadline has passed, at most 100."""
    return [Operation(**row) for row in await conn.fetch(LIST_OVERDUE, now)]


async def find_launch(conn: Conn, job_id: UUID) -> Launch | None:
    """Read a launch as it is shown."""
    row = await conn.fetchrow(FIND_LAUNCH, job_id)
    return Launch(**row) if row is not None else None


def _found(row: Any) -> Operation | None:
    return Operation(**row) if row is not None else None
