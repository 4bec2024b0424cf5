"""Journal of received commands, so that each takes effect once, even across restarts."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1.agent_stream_pb2 import CommandDelivery, CommandResult, Report

from spotplane_agents.spool import Spool
from spotplane_agents.state import State

CommandState = Literal["new", "received", "started", "done", "cancelled"]
INTERRUPTED: Final = "interrupted by a restart"

INSERT_COMMAND: Final = """
    INSERT INTO command (command_id, delivery, state, expires_at) VALUES (?, ?, 'received', ?)
    ON CONFLICT (command_id) DO NOTHING
"""
READ_COMMAND: Final = "SELECT state, result, report_id FROM command WHERE command_id = ?"
MARK_STARTED: Final = """
    UPDATE command SET state = 'started' WHERE command_id = ? AND state = 'received'
"""
MARK_CANCELLED: Final = """
    UPDATE command SET state = 'cancelled' WHERE command_id = ? AND state = 'received'
"""
MARK_DONE: Final = """
    UPDATE command SET state = 'done', result = ?
     WHERE command_id = ? AND state IN ('received', 'started')
"""
MARK_RESENT: Final = "UPDATE command SET report_id = ? WHERE command_id = ?"
REPORT_WAITS: Final = "SELECT 1 FROM report WHERE id = ?"
# A command that is done but not acknowledged has not been reported either.
LIST_OPEN: Final = """
    SELECT command_id FROM command
     WHERE state IN ('received', 'started')
        OR (state = 'done' AND report_id IN (SELECT id FROM report))
"""
LIST_UNDONE: Final = "SELECT delivery, state FROM command WHERE state IN ('received', 'started')"
FORGET_EXPIRED: Final = """
    DELETE FROM command
     WHERE expires_at < ?
       AND state IN ('received', 'done', 'cancelled')
       AND (report_id IS NULL OR report_id NOT IN (SELECT id FROM report))
"""
# The server's record of a delivery may outlive the expiry a little; so does ours.
KEPT_AFTER_EXPIRY_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Undone:
    """A command that an earlier process left unfinished."""

    delivery: CommandDelivery
    started: bool


class Journal:
    """Commands that were received, started and done, in the same file as the spool."""

    def __init__(self, state: State, spool: Spool) -> None:
        self._state = state
        self._spool = spool

    def receive(self, delivery: CommandDelivery) -> CommandState:
        """Store a command; return its previous state.

        The stored result of a command that is done is spooled again, unless it still waits there.
        """
        key, body = delivery.command_id, delivery.SerializeToString()
        with self._state.transaction() as conn:
            expires = delivery.expires_at.ToNanoseconds() / 1e9
            if conn.execute(INSERT_COMMAND, (key, body, expires)).rowcount:
                return "new"
            state, result, report_id = conn.execute(READ_COMMAND, (key,)).fetchone()
            waits = conn.execute(REPORT_WAITS, (report_id,)).fetchone() is not None
            if state == "done" and not waits:
                report = Report(command_result=CommandResult.FromString(result))
                conn.execute(MARK_RESENT, (self._spool.insert(conn, report), key))
        known: CommandState = state
        return known

    def start(self, command_id: str) -> bool:
        """Mark a command as started; False when it was cancelled or started before."""
        with self._state.transaction() as conn:
            return conn.execute(MARK_STARTED, (command_id,)).rowcount == 1

    def cancel(self, command_id: str) -> bool:
        """Mark a command as cancelled; False when it was started or is unknown."""
        with self._state.transaction() as conn:
            return conn.execute(MARK_CANCELLED, (command_id,)).rowcount == 1

    def finish(self, result: CommandResult) -> bool:
        """Store the result and spool its report in one commit; False when it had one before."""
        with self._state.transaction() as conn:
            body, key = result.SerializeToString(), result.command_id
            if conn.execute(MARK_DONE, (body, key)).rowcount == 0:
                return False
            report_id = self._spool.insert(conn, Report(command_result=result))
            conn.execute(MARK_RESENT, (report_id, key))
        return True

    def open_ids(self) -> list[str]:
        """Return the unfinished and unacknowledged commands, for `Hello`."""
        with self._state.transaction() as conn:
            return [str(row[0]) for row in conn.execute(LIST_OPEN)]

    def recover(self, is_idempotent: Callable[[str], bool], now: datetime) -> list[Undone]:
        """List the commands of an earlier process, oldest delivery first.

        It is unknown whether a started command took effect. It is run again only when its handler
        is
        idempotent; otherwise it is reported failed, "interrupted by a restart".
        """
        with self._state.transaction() as conn:
            rows = conn.execute(LIST_UNDONE).fetchall()
        left = [Undone(CommandDelivery.FromString(body), s == "started") for body, s in rows]
        again = []
        for undone in left:
            if not undone.started or is_idempotent(undone.delivery.name):
                again.append(undone)
                continue
            stamp = Timestamp()
            stamp.FromDatetime(now)
            self.finish(
                CommandResult(
                    command_id=undone.delivery.command_id,
                    success=False,
                    message=INTERRUPTED,
                    finished_at=stamp,
                )
            )
        return sorted(again, key=lambda u: u.delivery.created_at.ToNanoseconds())

    def forget_expired(self, now: datetime) -> int:
        """Delete acknowledged commands an hour past their expiry; return their number."""
        with self._state.transaction() as conn:
            limit = now.astimezone(UTC).timestamp() - KEPT_AFTER_EXPIRY_SECONDS
            return conn.execute(FORGET_EXPIRED, (limit,)).rowcount
