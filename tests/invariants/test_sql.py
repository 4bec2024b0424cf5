"""Every SQL constant of the server prepares against the migrated schema, under the plain role."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import asyncpg
import spotplane_server
from spotplane_server.kernel.db.database import ALL_TENANTS, Database

_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
# Run by the schema's owner before the plain role may do anything.
_OWNERS = {"spotplane_server.kernel.db.migrate"}


def statements() -> Iterator[tuple[str, str]]:
    """Every constant that is SQL, by its full name."""
    for module in pkgutil.walk_packages(spotplane_server.__path__, "spotplane_server."):
        if module.name in _OWNERS or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.isupper() and isinstance(value, str) and _STATEMENT.match(value):
                yield f"{module.name}.{name}", value


ALL = dict(statements())


def test_there_are_statements() -> None:
    """The search itself works."""
    assert len(ALL) > 50


async def test_every_statement_prepares(db: Database) -> None:
    """Names, types and privileges are right."""
    faults = {}
    async with db.connection(ALL_TENANTS) as conn:
        for name, statement in ALL.items():
            try:
                await conn.prepare(statement)
            except asyncpg.PostgresError as err:
                faults[name] = str(err)
    assert not faults


def test_statements_list_their_columns() -> None:
    """No statement reads `*`, so that a new column changes no row type.

    But all of what a function of ours returns, or of sets of that: its columns are its signature.
    """
    star = re.compile(r"(SELECT|,|RETURNING)\s+(\w+\.)?\*(?!\s+FROM\s+(\w+\(|(expected|stored)\b))")
    assert not [name for name, statement in ALL.items() if star.search(statement)]
