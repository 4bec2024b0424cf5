"""When a replica is tried again, and what a polling agent means by its question."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from spotplane_server.replicas import queries, rules
from spotplane_server.replicas.queries import Wanted

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 60), (2, 120), (3, 240), (4, 480), (5, 900), (99, 900)]
)
def test_wait_doubles_from_a_minute_to_a_quarter_of_an_hour(failures: int, seconds: int) -> None:
    """Counted from the last failure."""
    assert rules.retry_at(NOW, failures) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("status", "all_of_them", "wanted"),
    [
        (None, False, Wanted(rules.LIVE)),
        (None, True, Wanted(rules.STATUSES)),
        ("launching", False, Wanted(("launching",), bound=False)),
        ("terminated", False, Wanted(("terminated",), bound=True, confirmed=False)),
        ("terminated", True, Wanted(("terminated",), bound=True, confirmed=False)),
        ("failed", False, Wanted(("failed",))),
    ],
)
def test_polling_agent_sees_placeholders_only_among_launches(
    status: str | None, all_of_them: bool, wanted: Wanted
) -> None:
    """Once it sees one among those to end, it never looks at that replica again."""
    assert queries.polled(status, all_of_them=all_of_them) == wanted
