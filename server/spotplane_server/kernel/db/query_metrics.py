"""Query metrics: statement durations by the name of the SQL constant."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

from spotplane_server.kernel import metrics

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

PACKAGE: Final = "spotplane_server."
# What drivers and transactions send, and text that is put together.
OTHER: Final = "other"
_VERBS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "LOCK")


def timed(then: Callable[[LoggedQuery], None] | None = None) -> Callable[[LoggedQuery], None]:
    """Tell the metrics of each statement that ran, and ``then``."""
    timers = _timers()
    other = metrics.QUERY_SECONDS.labels(OTHER).observe

    def told(done: LoggedQuery) -> None:
        timers.get(done.query, other)(done.elapsed)
        if then is not None:
            then(done)

    return told


@cache
def _timers() -> dict[str, Callable[[float], None]]:
    return {text: metrics.QUERY_SECONDS.labels(name).observe for text, name in _named()}


def _named() -> Iterator[tuple[str, str]]:
    """The statements of all loaded modules, by name: ``usage.rollup_queries.SUM_KEYS``."""
    for path, module in sorted(sys.modules.items()):
        if path.startswith(PACKAGE):
            for name, value in vars(module).items():
                if name.isupper() and isinstance(value, str) and value.lstrip().startswith(_VERBS):
                    yield value, f"{path.removeprefix(PACKAGE)}.{name}"
