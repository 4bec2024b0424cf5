"""Checks that a keyed call's effects commit in the transaction that stores its answer."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from spotplane_server.kernel import request_context
from spotplane_server.kernel.db import transactions
from spotplane_server.kernel.rpc import idempotency

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

# Methods that also commit on their own, since that may be repeated without harm: records have ids,
# a rebuild replaces, leases of operations end, and an uploaded engine is activated afterwards.
INDEPENDENT: Final = {
    "/spotplane.v1.DecisionService/UploadEngine",
    "/spotplane.v1.UsageService/IngestUsage",
    "/spotplane.v1.UsageService/IngestUsageBatch",
    "/spotplane.v1.UsageService/RefreshRollups",
    "/spotplane.v1.NodeService/LeaseNodeOperations",
}
_WRITE: Final = re.compile(r"\b(INSERT INTO|UPDATE [a-z_]+\b(?! *SKIP)|DELETE FROM) *[a-z_]*")
_COMMENT: Final = re.compile(r"--[^\n]*")
# Statements of the key itself that commit on their own.
_OF_THE_KEY: Final = frozenset(
    {idempotency.CLAIM_KEY, idempotency.RELEASE_KEY, idempotency.REPLACE_ANSWER}
)


class Atomicity:
    """Records the statements of each call. Give it to a server as ``on_statement``."""

    def __init__(self) -> None:
        self._ran: defaultdict[tuple[str, str], list[str]] = defaultdict(list)

    def __call__(self, done: LoggedQuery) -> None:
        """Record a statement under the call that ran it."""
        correlation_id = request_context.correlation_id()
        if correlation_id is not None and done.query != transactions.SET_SCOPE:
            self._ran[(correlation_id, request_context.current().method)].append(done.query)

    def completed(self) -> set[str]:
        """Methods with a call that stored its answer together with an effect."""
        return {
            method
            for (_, method), ran in self._ran.items()
            if idempotency.COMPLETE_KEY in ran and any(map(_writes, ran))
        }

    def violations(self) -> dict[str, list[str]]:
        """Writes by method that do not commit with the answer of their call."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for (_, method), ran in self._ran.items():
            if idempotency.CLAIM_KEY in ran:
                found[method] += [sql for sql in _committed_elsewhere(ran) if _writes(sql)]
        return {method: writes for method, writes in found.items() if writes}


def _committed_elsewhere(ran: list[str]) -> list[str]:
    """The statements that were committed without the call's answer."""
    elsewhere: list[str] = []
    block: list[str] | None = None
    for sql in ran:
        if sql.startswith("BEGIN"):
            block = []
        elif sql.startswith("COMMIT") and block is not None:
            if idempotency.COMPLETE_KEY not in block:
                elsewhere += block
            block = None
        elif sql == "ROLLBACK;":
            block = None
        else:
            (elsewhere if block is None else block).append(sql)
    return elsewhere


def _writes(sql: str) -> bool:
    if sql in _OF_THE_KEY or sql == idempotency.COMPLETE_KEY:
        return False
    text = _COMMENT.sub("", sql)
    return any(not m[0].startswith("UPDATE SET") for m in _WRITE.finditer(text))
