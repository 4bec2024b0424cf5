"""Spool: bounded queue on disk of reports that the server has not acknowledged."""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from spotplane.v1.agent_stream_pb2 import Report

from spotplane_agents.clock import shift_instants
from spotplane_agents.errors import SpoolFull
from spotplane_agents.state import State

# Lane 0 is about commands and instances: never dropped, and sent before lane 1, so that a notice
# does not wait behind an hour of usage. Lane 1 may be dropped when there is no room.
LANES: Final = {
    "command_result": 0,
    "notice": 0,
    "replica": 0,
    "termination": 0,
    "prices": 1,
    "usage": 1,
}

MICROSECOND: Final = timedelta(microseconds=1)
INSERT_REPORT: Final = """
    INSERT INTO report (lane, kind, body, size, shift_us) VALUES (?, ?, ?, ?, ?)
"""
SET_SHIFT: Final = "UPDATE report SET shift_us = ? WHERE shift_us IS NULL"
DELETE_REPORT: Final = "DELETE FROM report WHERE id = ?"
SIZE: Final = "SELECT count(*), coalesce(sum(size), 0) FROM report"
OLDEST_DROPPABLE: Final = """
    SELECT id, kind, size FROM report WHERE lane = 1 ORDER BY id LIMIT 1
"""
COUNT_DROPPED: Final = """
    INSERT INTO dropped (kind, count) VALUES (?, 1)
    ON CONFLICT (kind) DO UPDATE SET count = count + 1
"""
LIST_DROPPED: Final = "SELECT kind, count FROM dropped"
LIST_LANE: Final = """
    SELECT id, lane, body, shift_us FROM report WHERE lane = ? AND id > ? ORDER BY id LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Spooled:
    """One report on disk; ``report`` carries no ``seq``."""

    id: int
    lane: int
    report: Report


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Size limits. Lane 0 may use twice these, since its reports cannot be dropped."""

    max_count: int = 10_000
    max_bytes: int = 64 << 20


class Spool:
    """Reports in their order of arrival, until they are acknowledged.

    When it is full, the oldest usage and price reports are dropped and counted. No other report is
    ever dropped: when only other kinds are left, usage and prices are rejected instead.
    """

    def __init__(self, state: State, limits: SpoolLimits | None = None) -> None:
        self._state = state
        self._limits = limits or SpoolLimits()
        self._unknown_shift = timedelta()

    def size(self) -> tuple[int, int]:
        """Return the number of reports, and their size in bytes."""
        with self._state.transaction() as conn:
            count, held = conn.execute(SIZE).fetchone()
        return int(count), int(held)

    def append(self, report: Report, shift: timedelta | None = timedelta()) -> int:
        """Write ``report``; once this returns it survives a crash. Returns its id.

        Args:
            report: Its instants are those of the machine's clock.
            shift: Offset of them to the server's time; None while it is unknown, see ``set_shift``.

        Raises:
            SpoolFull: There is no room, and no report that may be dropped.
            StateUnavailable: It could not be written.
            ValueError: ``report`` has no kind.
        """
        with self._state.transaction() as conn:
            return self.insert(conn, report, shift)

    def insert(
        self,
        conn: sqlite3.Connection,
        report: Report,
        shift: timedelta | None = timedelta(),
    ) -> int:
        """Do ``append`` within the caller's transaction."""
        kind = report.WhichOneof("kind")
        if kind is None:
            raise ValueError("a report needs a kind")
        body = report.SerializeToString()
        lane = LANES[kind]
        self._make_room(conn, lane, len(body))
        shift_us = None if shift is None else shift // MICROSECOND
        cursor = conn.execute(INSERT_REPORT, (lane, kind, body, len(body), shift_us))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def set_shift(self, shift: timedelta) -> None:
        """Set the shift of all reports that were appended before it was known.

        Raises:
            StateUnavailable: The disk rejects it; this process shifts them all the same.
        """
        self._unknown_shift = shift
        with self._state.transaction() as conn:
            conn.execute(SET_SHIFT, (shift // MICROSECOND,))

    def _make_room(self, conn: sqlite3.Connection, lane: int, size: int) -> None:
        factor = 1 if lane == 1 else 2
        count, held = conn.execute(SIZE).fetchone()
        while not self._fits(count, held + size, 1):
            row = conn.execute(OLDEST_DROPPABLE).fetchone()
            if row is None and not self._fits(count, held + size, factor):
                raise SpoolFull(f"{count} reports of {held} bytes wait and none may be dropped")
            if row is None:
                break
            report_id, kind, length = row
            conn.execute(DELETE_REPORT, (report_id,))
            conn.execute(COUNT_DROPPED, (kind,))
            count, held = count - 1, held - length

    def _fits(self, count: int, size: int, factor: int) -> bool:
        limits = self._limits
        return count < factor * limits.max_count and size <= factor * limits.max_bytes

    def acknowledge(self, report_ids: Collection[int]) -> None:
        """Delete reports that the server has acknowledged. Unknown ids are ignored."""
        with self._state.transaction() as conn:
            conn.executemany(DELETE_REPORT, [(i,) for i in report_ids])

    def next(self, lane: int, *, after_id: int, limit: int) -> list[Spooled]:
        """List up to ``limit`` reports of a lane beyond ``after_id``, oldest first."""
        with self._state.transaction() as conn:
            rows = conn.execute(LIST_LANE, (lane, after_id, limit)).fetchall()
        return [Spooled(i, at, self._shifted(body, shift)) for i, at, body, shift in rows]

    def dropped(self) -> dict[str, int]:
        """Return the number of reports dropped since the file was created, by kind."""
        with self._state.transaction() as conn:
            return {kind: int(count) for kind, count in conn.execute(LIST_DROPPED)}

    def _shifted(self, body: bytes, shift_us: int | None) -> Report:
        report = Report.FromString(body)
        shift = self._unknown_shift if shift_us is None else shift_us * MICROSECOND
        if shift:
            shift_instants(report, shift)
        return report
