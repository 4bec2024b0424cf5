"""Migrations: applied under a lock; a newer database is rejected."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final

import asyncpg
import structlog

from spotplane_server.kernel.db import connections
from spotplane_server.kernel.db.database import Conn

log = structlog.get_logger(__name__)

# Any constant serves; it only has to be the same for all of our processes.
LOCK_KEY: Final = 0x5350_4F54

CREATE_LEDGER: Final = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version    int PRIMARY KEY,
        name       text NOT NULL,
        checksum   text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
LIST_APPLIED: Final = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
RECORD: Final = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"
LATEST: Final = "SELECT max(version) FROM schema_migrations"
# A login without superuser rights that created the role may grant it, but is not yet a member that
# can work under it; servers and commands may use the same login.
JOIN_APP_ROLE: Final = """
    DO $$
    BEGIN
        IF NOT pg_has_role('spotplane_app', 'SET') AND EXISTS (
            SELECT FROM pg_auth_members
             WHERE roleid = 'spotplane_app'::regrole AND admin_option
               AND member = current_user::regrole)
        THEN
            EXECUTE format('GRANT spotplane_app TO %I', current_user);
        END IF;
    END
    $$
"""


class MigrationRefused(RuntimeError):
    """The database and this program do not belong together."""


class Migration:
    """One numbered file."""

    def __init__(self, name: str, sql: str) -> None:
        self.name = name
        self.version = int(name.partition("_")[0])
        self.sql = sql
        self.checksum = hashlib.sha256(sql.encode()).hexdigest()


def load() -> list[Migration]:
    """All migrations of this version, in order.

    Raises:
        MigrationRefused: Two have the same number.
    """
    files = resources.files("spotplane_migrations").iterdir()
    found = sorted(
        (
            Migration(f.name.removesuffix(".sql"), f.read_text())
            for f in files
            if f.name.endswith(".sql")
        ),
        key=lambda m: m.version,
    )
    if len({m.version for m in found}) != len(found):
        raise MigrationRefused("two migrations have the same number")
    return found


async def migrate(url: str) -> list[str]:
    """Apply what is missing, each file in its own transaction; safe to run from many processes.

    Args:
        url: Of a login that owns the schema.

    Returns:
        Names of the migrations applied by this call.

    Raises:
        MigrationRefused: The database is newer, or a file was changed after it was applied.
        DatabaseTooOld: PostgreSQL is older than this program needs.
    """
    conn = await asyncpg.connect(url)
    try:
        connections.require_version(conn)
        await conn.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        await conn.execute(CREATE_LEDGER)
        applied = {row["version"]: row for row in await conn.fetch(LIST_APPLIED)}
        wanted = load()
        _refuse(applied, wanted)
        done = [await _apply(conn, m) for m in wanted if m.version not in applied]
        await conn.execute(JOIN_APP_ROLE)
        return done
    finally:
        await conn.close()


async def current(conn: Conn) -> bool:
    """Whether the database has all of this program's migrations.

    A server goes on while a newer version migrates: migrations are written so that the code before
    and the code after can both work with them.
    """
    try:
        latest = await conn.fetchval(LATEST)
    except asyncpg.UndefinedTableError:
        return False  # an empty database
    return (latest or 0) >= load()[-1].version


async def _apply(conn: asyncpg.Connection[asyncpg.Record], migration: Migration) -> str:
    async with conn.transaction():
        await conn.execute(migration.sql)
        await conn.execute(RECORD, migration.version, migration.name, migration.checksum)
    log.info("migrated", migration=migration.name)
    return migration.name


def _refuse(applied: dict[int, asyncpg.Record], wanted: list[Migration]) -> None:
    newest, known = max(applied, default=0), wanted[-1].version
    if newest > known:
        raise MigrationRefused(
            f"the database is at migration {newest}, this program knows {known}: upgrade it"
        )
    for migration in wanted:
        row = applied.get(migration.version)
        if row is not None and row["checksum"] != migration.checksum:
            raise MigrationRefused(f"migration {migration.name} was changed after it was applied")
