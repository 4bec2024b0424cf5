"""State file of an agent: one SQLite file that survives the process."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spotplane_agents.errors import StateClosed, StateInUse, StateUnavailable

FILE_NAME: Final = "agent.sqlite3"
SCHEMA_VERSION: Final = 1

SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS report (
        id        INTEGER PRIMARY KEY AUTOINCREMENT,
        lane      INTEGER NOT NULL,
        kind      TEXT    NOT NULL,
        body      BLOB    NOT NULL,
        size      INTEGER NOT NULL
    );
    -- Carries the size, so that the totals are summed without touching a body.
    CREATE INDEX IF NOT EXISTS report_by_lane ON report (lane, id, size);
    CREATE TABLE IF NOT EXISTS dropped (
        kind      TEXT    PRIMARY KEY,
        count     INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS command (
        command_id TEXT   PRIMARY KEY,
        delivery   BLOB   NOT NULL,
        state      TEXT   NOT NULL,
        result     BLOB,
        report_id  INTEGER,
        expires_at REAL   NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS note (
        name      TEXT    PRIMARY KEY,
        value     TEXT    NOT NULL
    ) WITHOUT ROWID;
"""

# Offset of a report's instants to the server's time, in microseconds; null while the server's
# time is unknown. A default, since older versions of the agent insert without it.
HAS_SHIFT: Final = "SELECT 1 FROM pragma_table_info('report') WHERE name = 'shift_us'"
ADD_SHIFT: Final = "ALTER TABLE report ADD COLUMN shift_us INTEGER DEFAULT 0"
INDEX_SHIFT: Final = """
    CREATE INDEX IF NOT EXISTS report_unshifted ON report (id) WHERE shift_us IS NULL
"""
READ_NOTE: Final = "SELECT value FROM note WHERE name = ?"
DELETE_NOTE: Final = "DELETE FROM note WHERE name = ?"
WRITE_NOTE: Final = """
    INSERT INTO note (name, value) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
FORGET_COMMANDS: Final = "DELETE FROM command"
FORGET_NOTES: Final = "DELETE FROM note"
# Lane 0 concerns one instance; usage and prices are valid from any instance.
FORGET_INSTANCE_REPORTS: Final = "DELETE FROM report WHERE lane = 0"


class State:
    """One SQLite file, held by one process at a time.

    Every commit reaches the disk before it returns. Methods block for the length of a disk write,
    so coroutines call them, and what is built on them, through ``asyncio.to_thread``.
    """

    def __init__(self, directory: Path) -> None:
        """Open or create the file in ``directory``.

        Raises:
            StateInUse: Another live agent holds the directory.
            StateUnavailable: It cannot be written, or a newer version has written it.
        """
        self._mutex = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateUnavailable(f"{directory}: {error.strerror}") from error
        try:
            self._claim(directory)
            self._conn = self._open(directory / FILE_NAME)
        except BaseException:
            os.close(self._lock)
            raise

    def _claim(self, directory: Path) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateInUse(f"another agent uses {directory}") from error

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            conn.execute("PRAGMA journal_mode = WAL")
            # FULL: a commit survives a power cut too, not only the end of the process.
            conn.execute("PRAGMA synchronous = FULL")
            (version,) = conn.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise StateUnavailable(f"{path} was written by a newer version of the agent")
            conn.executescript(SCHEMA)
            if conn.execute(HAS_SHIFT).fetchone() is None:
                conn.execute(ADD_SHIFT)
            conn.execute(INDEX_SHIFT)
            conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise StateUnavailable(f"{path}: {error}") from error
        return conn

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in one transaction.

        Raises:
            StateUnavailable: SQLite failed, e.g. because the disk is full; nothing has changed.
            StateClosed: The file is released.
        """
        with self._mutex:
            if self._lock < 0:
                raise StateClosed("the agent has ended")
            try:
                self._conn.execute("BEGIN IMMEDIATE")
                try:
                    yield self._conn
                except BaseException:
                    self._conn.execute("ROLLBACK")
                    raise
                self._conn.execute("COMMIT")
            except sqlite3.Error as error:
                if self._is_inside():
                    self._conn.execute("ROLLBACK")
                raise StateUnavailable(str(error)) from error

    def _is_inside(self) -> bool:
        try:
            return self._conn.in_transaction
        except sqlite3.ProgrammingError:  # closed meanwhile
            return False

    def adopt(self, instance_id: str) -> bool:
        """Assign the file to this instance; return whether it was another's.

        A copied disk or an image of a running instance has a journal with commands for that other
        instance. They are deleted, and so are its reports other than usage and prices.
        """
        with self.transaction() as conn:
            row = conn.execute(READ_NOTE, ("instance_id",)).fetchone()
            if row is not None and row[0] == instance_id:
                return False
            if row is not None:
                for statement in (FORGET_COMMANDS, FORGET_INSTANCE_REPORTS, FORGET_NOTES):
                    conn.execute(statement)
            conn.execute(WRITE_NOTE, ("instance_id", instance_id))
        return row is not None

    def find_note(self, name: str) -> str | None:
        """Return a note; None when it was never written."""
        with self.transaction() as conn:
            row = conn.execute(READ_NOTE, (name,)).fetchone()
        return None if row is None else str(row[0])

    def record_note(self, name: str, value: str | None) -> None:
        """Write a note, or delete it with None."""
        with self.transaction() as conn:
            if value is None:
                conn.execute(DELETE_NOTE, (name,))
            else:
                conn.execute(WRITE_NOTE, (name, value))

    def close(self) -> None:
        """Release the file. Safe to repeat."""
        with self._mutex:
            if self._lock < 0:
                return
            self._conn.close()
            os.close(self._lock)
            self._lock = -1
