"""Which statements each call ran."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from spotplane_server.kernel import request_context
from spotplane_server.kernel.auth import authenticator
from spotplane_server.kernel.db import transactions

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

# Proving the caller and scoping a connection depend on what went before, not on what is read.
ASIDE: Final = frozenset(
    {
        authenticator.READ_EPOCH,
        authenticator.FIND_API_KEY,
        authenticator.FIND_ADMIN,
        authenticator.FIND_AGENT,
        transactions.SET_SCOPE,
    }
)
# What the driver asks on a new connection about types that it has not met.
LOOKED_UP: Final = ("current_setting('jit')", "typeinfo_tree")


class Statements:
    """Give it to a server as ``on_statement``."""

    def __init__(self) -> None:
        self._ran: defaultdict[str, list[str]] = defaultdict(list)

    def __call__(self, done: LoggedQuery) -> None:
        """Note a statement under the id of the call that ran it."""
        correlation_id = request_context.correlation_id()
        aside = done.query in ASIDE or any(part in done.query for part in LOOKED_UP)
        if correlation_id is not None and not aside:
            self._ran[correlation_id].append(done.query)

    def of(self, correlation_id: str) -> list[str]:
        """What a call ran, in order; ``BEGIN`` and ``COMMIT`` are among it."""
        return self._ran[correlation_id]

    def count(self, statement: str) -> int:
        """How often all calls together ran a statement."""
        return sum(ran.count(statement) for ran in self._ran.values())
