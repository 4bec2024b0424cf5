"""What provisioners report of operations, and operations that nobody finishes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.nodes import lifecycle, logs_store, operations_store, rules, store
from spotplane_server.nodes.operations_store import Operation
from spotplane_server.nodes.store import Known


@dataclass(frozen=True, slots=True)
class Report:
    """What the holder of an operation says of it."""

    operation_id: UUID
    attempt: int
    outcome: str
    retryable: bool
    phase: str
    message: str | None
    machine_id: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What a report came to.

    Attributes:
        open: Whether its holder is to go on.
        node_id: Whose log has another line, if any.
        provider: Where there is work now, if any.
    """

    open: bool
    node_id: UUID | None = None
    provider: str | None = None


async def take(conn: Conn, report: Report, now: datetime) -> Taken:
    """Take a report; one of a lease that is over changes nothing of the operation.

    The node is held before the operation, as everywhere.
    """
    if report.outcome == "working":
        return await _keep(conn, report, now)
    found = await operations_store.find(conn, report.operation_id)
    if found is None:
        return Taken(open=False)
    node = await store.lock(conn, found.node_id)
    held = await operations_store.lock(conn, report.operation_id)
    if node is None or held is None or held.attempt != report.attempt or not held.is_open:
        return await _let_go(conn, report, now)
    if report.outcome == "done":
        return await _done(conn, node, held, report, now)
    if report.outcome == "dropped":
        await operations_store.retry(
            conn, held, at=now, machine_id=report.machine_id, error=None, now=now
        )
        return Taken(open=False, provider=held.provider)
    return await _failed(conn, node, held, report, now)


async def give_up(conn: Conn, overdue: Operation, now: datetime) -> bool:
    """End an operation whose deadline has passed; False when it was finished meanwhile."""
    node = await store.lock(conn, overdue.node_id)
    held = await operations_store.lock(conn, overdue.id)
    if node is None or held is None or not held.is_open:
        return False
    await _over(conn, node, held, "it took too long", now)
    return True


async def _keep(conn: Conn, report: Report, now: datetime) -> Taken:
    kept = await operations_store.keep(
        conn,
        report.operation_id,
        report.attempt,
        machine_id=report.machine_id,
        stage=report.phase,
        now=now,
    )
    if kept is None:
        return Taken(open=False)
    if report.message is None:
        return Taken(open=True)
    await logs_store.write(
        conn, kept.node_id, report.message, now, phase=kept.stage, progress=kept.progress
    )
    return Taken(open=True, node_id=kept.node_id)


async def _let_go(conn: Conn, report: Report, now: datetime) -> Taken:
    provider = await operations_store.release_cleanup(
        conn, report.operation_id, report.attempt, report.machine_id, now
    )
    return Taken(open=False, provider=provider)


async def _done(conn: Conn, node: Known, held: Operation, report: Report, now: datetime) -> Taken:
    if held.kind == "launch":
        return Taken(open=True)  # only its node can say so
    await operations_store.finish(
        conn, held, "succeeded", error=None, machine_id=report.machine_id, now=now
    )
    if node.status != "dead":
        await lifecycle.bury(conn, node, report.message or "its machine was ended", now)
    return Taken(open=False, node_id=node.id)


async def _failed(conn: Conn, node: Known, held: Operation, report: Report, now: datetime) -> Taken:
    error, failures = report.message or "no reason was given", held.failures + 1
    if rules.gives_up(held.kind, failures, retryable=report.retryable):
        await _over(conn, node, held, error, now)
        return Taken(open=False, node_id=node.id, provider=held.provider)
    pause = rules.pause(failures)
    await operations_store.retry(
        conn, held, at=now + pause, machine_id=report.machine_id, error=error, now=now
    )
    text = f"attempt {held.attempt} failed, another follows in {pause.seconds} s: {error}"
    await logs_store.write(conn, node.id, text, now, level="warning")
    return Taken(open=False, node_id=node.id)


async def _over(conn: Conn, node: Known, held: Operation, error: str, now: datetime) -> None:
    """Fail an operation for good. What a launch may have made is ended."""
    await operations_store.finish(conn, held, "failed", error=error, now=now)
    text = f"the {held.kind} has failed: {error}"
    await logs_store.write(
        conn,
        node.id,
        text,
        now,
        level="error",
        phase="failed" if held.kind == "launch" else None,
    )
    if held.kind == "launch" and node.status not in ("dead", "terminating"):
        await lifecycle.end(conn, node, text, now, gone=True)
