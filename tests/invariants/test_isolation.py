"""Row-level security guards every tenant's rows, and the server's role cannot get around it."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest
import spotplane_server
from spotplane_server.kernel.db.connections import APP_ROLE
from spotplane_server.kernel.db.transactions import SET_SCOPE

# Every table with tenants' rows, and the column that says whose they are.
TENANT_TABLES: Final = """
    SELECT c.relname AS name, a.attname AS owner, NOT a.attnotnull AS nullable,
           c.relrowsecurity AS guarded,
           EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid) AS policed,
           c.relispartition AS partition,
           has_table_privilege($1, c.oid, 'SELECT, INSERT, UPDATE, DELETE') AS open
      FROM pg_class c
      JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
     WHERE c.relnamespace = 'public'::regnamespace
       AND c.relkind IN ('r', 'p')
       AND a.attname = CASE c.relname WHEN 'tenants' THEN 'id' ELSE 'tenant_id' END
     ORDER BY 1
"""
REQUIRED_COLUMNS: Final = """
    SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type
      FROM pg_attribute a
     WHERE a.attrelid = $1::text::regclass
       AND a.attnum > 0
       AND a.attnotnull
       AND NOT a.atthasdef
       AND a.attidentity = ''
       AND NOT a.attisdropped
"""
CHECKS: Final = """
    SELECT conrelid::regclass::text AS relation, conname AS name
      FROM pg_constraint
     WHERE contype = 'c' AND connamespace = 'public'::regnamespace AND conislocal
"""
UNINDEXED_FOREIGN_KEYS: Final = """
    SELECT f.conrelid::regclass::text || ' ' || f.conname
      FROM pg_constraint f
     WHERE f.contype = 'f'
       AND f.conparentid = 0
       AND f.connamespace = 'public'::regnamespace
       AND NOT EXISTS (
            SELECT
              FROM pg_index i
             WHERE i.indrelid = f.conrelid
               AND i.indpred IS NULL
               AND (SELECT array_agg(k ORDER BY k)
                      FROM unnest((i.indkey::int2[])[0:cardinality(f.conkey) - 1]) AS k)
                   = (SELECT array_agg(k ORDER BY k) FROM unnest(f.conkey) AS k))
"""
OWNED_BY_ROLE: Final = """
    SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
     WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND r.rolname = $1
"""
UNSAFE_DEFINERS: Final = """
    SELECT proname FROM pg_proc
     WHERE prosecdef AND pronamespace = 'public'::regnamespace
       AND NOT coalesce(proconfig::text LIKE '%search_path=%pg_temp%', false)
"""
SAMPLES: Final = {
    "uuid": "gen_random_uuid()",
    "text": "gen_random_uuid()::text",
    "integer": "1",
    "bigint": "1",
    "real": "1",
    "double precision": "1",
    "numeric": "1",
    "boolean": "true",
    "jsonb": "'{}'",
    "bytea": "gen_random_uuid()::text::bytea",
    "timestamp with time zone": "now()",
    "text[]": "'{}'",
    "integer[]": "'{}'",
    "bigint[]": "'{}'",
}
# Columns by whose values a partition is chosen.
PARTITION_KEYS: Final = {"rollup": "'day'"}


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[Any]:
    """The schema's owner."""
    conn = await asyncpg.connect(database_url)
    yield conn
    await conn.close()


@pytest.fixture
async def plain(database_url: str) -> AsyncIterator[Any]:
    """The server's role, before any scope is set."""
    conn = await asyncpg.connect(database_url, server_settings={"role": APP_ROLE})
    yield conn
    await conn.close()


async def _tables(owner: Any) -> list[Any]:
    return [row for row in await owner.fetch(TENANT_TABLES, APP_ROLE) if not row["partition"]]


async def _insert(conn: Any, owner: Any, table: Any, tenant_id: UUID | None) -> None:
    """Add a row of a tenant, with whatever value fits in the columns that need one."""
    needed = await owner.fetch(REQUIRED_COLUMNS, table["name"])
    values = {row["name"]: SAMPLES[row["type"]] for row in needed} | {table["owner"]: "$1"}
    values |= {name: value for name, value in PARTITION_KEYS.items() if name in values}
    columns = ", ".join(f'"{name}"' for name in values)
    statement = f"INSERT INTO {table['name']} ({columns}) VALUES ({', '.join(values.values())})"  # noqa: S608 - names come from the catalogue
    await conn.execute(statement, tenant_id)


async def _loosen(owner: Any) -> None:
    """Let any row in: this database is the test's own, and it is policies that are tested."""
    await owner.execute("SET session_replication_role = replica")
    for check in await owner.fetch(CHECKS):
        await owner.execute(
            f'ALTER TABLE {check["relation"]} DROP CONSTRAINT IF EXISTS "{check["name"]}"'
        )


async def _owners(conn: Any, table: Any) -> list[Any]:
    rows = await conn.fetch(f"SELECT {table['owner']} AS owner FROM {table['name']}")  # noqa: S608 - names come from the catalogue
    return [row["owner"] for row in rows]


async def test_every_table_with_tenants_rows_is_guarded(owner: Any) -> None:
    """Enabled, with a policy; partitions are reachable through their parents only."""
    rows = await owner.fetch(TENANT_TABLES, APP_ROLE)
    assert len(rows) > 10
    assert not [
        row["name"]
        for row in rows
        if (row["open"] if row["partition"] else not (row["guarded"] and row["policed"]))
    ]


async def test_a_scope_shows_its_tenants_rows_and_no_scope_shows_none(
    owner: Any, plain: Any
) -> None:
    """Without any WHERE; rows that are no tenant's are no tenant's to see either."""
    one, two = uuid4(), uuid4()
    await _loosen(owner)
    tables = await _tables(owner)
    for table in tables:
        for tenant_id in (one, two, *([None] if table["nullable"] else [])):
            await _insert(owner, owner, table, tenant_id)

    for scope, seen in ((None, []), ("", []), (str(one), [one]), (str(two), [two])):
        if scope is not None:
            await plain.execute(SET_SCOPE, scope)
        for table in tables:
            assert await _owners(plain, table) == seen, (table["name"], scope)


async def test_a_scope_writes_no_other_tenants_rows(owner: Any, plain: Any) -> None:
    """Neither a new row for another tenant nor a change of one of its rows."""
    one, two = uuid4(), uuid4()
    await _loosen(owner)
    await plain.execute(SET_SCOPE, str(one))
    for table in await _tables(owner):
        await _insert(owner, owner, table, two)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await _insert(plain, owner, table, two)
        try:
            update = f"UPDATE {table['name']} SET {table['owner']} = $1"  # noqa: S608 - as above
            done = await plain.execute(update, one)
        except asyncpg.InsufficientPrivilegeError:
            continue  # append-only
        assert done == "UPDATE 0", table["name"]


async def test_the_servers_role_owns_nothing_and_stands_above_nothing(
    owner: Any, plain: Any
) -> None:
    """No superuser, no way around policies, no tables of its own."""
    role = await owner.fetchrow("SELECT * FROM pg_roles WHERE rolname = $1", APP_ROLE)
    powers = ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolcanlogin")
    assert not [name for name in powers if role[name]]
    assert await owner.fetchval(OWNED_BY_ROLE, APP_ROLE) == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await plain.execute("CREATE TABLE mine (id int)")


async def test_functions_that_run_as_the_owner_fix_their_search_path(owner: Any) -> None:
    """Otherwise whoever calls one chooses what its names mean."""
    assert not await owner.fetch(UNSAFE_DEFINERS)


async def test_audit_rows_are_changed_by_nobody(owner: Any) -> None:
    """Not even by the owner."""
    await _loosen(owner)
    [table] = [row for row in await _tables(owner) if row["name"] == "audit_logs"]
    await _insert(owner, owner, table, uuid4())
    await owner.execute("SET session_replication_role = origin")

    for statement in (
        "UPDATE audit_logs SET action = 'x'",
        "DELETE FROM audit_logs",
        "TRUNCATE audit_logs",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await owner.execute(statement)


async def test_every_foreign_key_is_indexed(owner: Any) -> None:
    """Deleting what is referred to must not read whole tables."""
    assert not [row[0] for row in await owner.fetch(UNINDEXED_FOREIGN_KEYS)]


def _caught() -> set[str]:
    names: set[str] = set()
    for module in pkgutil.walk_packages(spotplane_server.__path__, "spotplane_server."):
        spec = importlib.util.find_spec(module.name)
        assert spec is not None
        assert spec.origin is not None
        for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("constraints"):
                names |= {word.arg for word in node.keywords if word.arg}
    return names


async def test_every_constraint_that_is_caught_exists(owner: Any) -> None:
    """A renamed one would turn a documented refusal into an internal error."""
    rows = await owner.fetch(
        "SELECT conname AS name FROM pg_constraint UNION SELECT relname FROM pg_class"
        " WHERE relkind IN ('i', 'I')"
    )
    caught = _caught()
    assert caught
    assert not caught - {row["name"] for row in rows}
