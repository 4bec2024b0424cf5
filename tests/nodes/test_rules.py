"""What moves a node, and which way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.nodes import rules
from spotplane_server.nodes.rules import Status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
any_status = st.sampled_from(rules.STATUSES)


@pytest.mark.parametrize(
    ("status", "score", "after"),
    [
        ("initializing", 50, "initializing"),  # all but the engine
        ("initializing", 50.01, "active"),
        ("active", 50, "active"),
        ("active", 49.99, "degraded"),
        ("active", 19.99, "unhealthy"),
        ("degraded", 20, "degraded"),
        ("suspect", 90, "active"),
        ("unhealthy", 90, "active"),
        ("draining", 0, "draining"),
        ("terminating", 100, "terminating"),
        ("launching", 100, "launching"),
        ("dead", 100, "dead"),
    ],
)
def test_a_score_moves_a_node_that_serves(status: Status, score: float, after: Status) -> None:
    """One that loads needs its engine; one that leaves is not moved."""
    assert rules.after_heartbeat(status, score) == after


@pytest.mark.parametrize(
    ("status", "seconds", "after"),
    [
        ("active", 30, "active"),
        ("active", 31, "suspect"),
        ("initializing", 31, "suspect"),
        ("active", 91, "unhealthy"),
        ("unhealthy", 31, "unhealthy"),
        ("active", 300, "unhealthy"),
        ("active", 301, "dead"),
        ("draining", 300, "draining"),
        ("draining", 301, "dead"),
        ("launching", 10_000, "launching"),
        ("terminating", 10_000, "terminating"),
    ],
)
def test_silence_moves_a_node_step_by_step(status: Status, seconds: int, after: Status) -> None:
    """30 s, 90 s, 300 s; what is not expected to speak is not moved."""
    assert rules.after_silence(status, timedelta(seconds=seconds)) == after


@given(any_status, st.integers(0, 1000), st.integers(0, 1000))
def test_silence_never_makes_a_node_better(status: Status, first: int, more: int) -> None:
    """And taking it in two looks ends where one look does."""
    early = rules.after_silence(status, timedelta(seconds=first))
    late = rules.after_silence(early, timedelta(seconds=first + more))
    assert not rules.worse(early, status)
    assert not rules.worse(late, early)
    assert late == rules.after_silence(status, timedelta(seconds=first + more))


@pytest.mark.parametrize(
    ("known", "ahead", "after"),
    [
        (None, None, "active"),
        ("dead", None, "active"),
        ("launching", None, "active"),
        ("draining", None, "active"),
        ("draining", 1, "draining"),
        ("draining", -1, "active"),
        ("terminating", None, "terminating"),
    ],
)
def test_registering_starts_anew_but_for_what_is_ordered_or_announced(
    known: Status | None, ahead: int | None, after: Status
) -> None:
    """An end that was ordered stays, and a drain until the cloud's deadline."""
    deadline = None if ahead is None else NOW + timedelta(seconds=ahead)
    assert rules.after_registration(known, "active", deadline, NOW) == after
