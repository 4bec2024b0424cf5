"""Whatever an engine does, every question is answered; after three failures it is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from spotplane_server.decisions import candidates
from spotplane_server.decisions.circuit_breaker import OPEN_FOR, Judge
from spotplane_server.decisions.engine import Decision, Snapshot
from spotplane_server.decisions.engine_runners import InThread

from tests.decisions.markets import NOW, TYPE, pool, snapshot

MARKET = snapshot(pool("a", 0.4), pool("b", 0.3))


class Scripted:
    """An engine that does what it is told."""

    name, version, hedges = "scripted", "9", False

    def __init__(self, act: Callable[[], Decision]) -> None:
        self.act = act
        self.asked = 0

    def decide(self, _snapshot: Snapshot) -> Decision:
        self.asked += 1
        return self.act()


def good() -> Decision:
    """To the cheaper pool."""
    return candidates.switch(MARKET, MARKET.pools[1], 0.7, "cheaper", "savings")


def bad() -> Decision:
    """A defect of an operator's engine."""
    raise ZeroDivisionError("of its own")


def seated(act: Callable[[], Decision]) -> tuple[Judge, Scripted]:
    """A judge with that engine."""
    judge, engine = Judge(), Scripted(act)
    judge.put(InThread("installed", engine))
    return judge, engine


async def test_an_engine_that_fails_is_answered_for_by_the_built_in_rules() -> None:
    """With `stay`, and with what it did instead."""
    judge, _ = seated(bad)
    (judged,) = await judge.decide([MARKET], NOW)
    assert (judged.decision.action, judged.engine, judged.active_fallback) == (
        "stay",
        "rules",
        True,
    )
    assert judged.fault is not None
    assert "ZeroDivisionError" in judged.fault
    assert judge.failing


async def test_after_three_failures_in_a_row_it_is_not_asked_for_five_minutes() -> None:
    """Then once, and one more failure is enough."""
    judge, engine = seated(bad)
    for _ in range(5):
        await judge.decide([MARKET], NOW)
    assert engine.asked == 3

    await judge.decide([MARKET], NOW + OPEN_FOR - timedelta(seconds=1))
    assert engine.asked == 3
    await judge.decide([MARKET], NOW + OPEN_FOR)
    await judge.decide([MARKET], NOW + OPEN_FOR)
    assert engine.asked == 4

    engine.act = good
    (judged,) = await judge.decide([MARKET], NOW + 2 * OPEN_FOR)
    assert judged.decision.target_pool_id == f"{TYPE}.b"
    assert not judge.failing


async def test_failures_that_are_not_in_a_row_close_nothing() -> None:
    """Two, a success, two."""
    judge, engine = seated(bad)
    for act in (bad, bad, good, bad, bad, good):
        engine.act = act
        await judge.decide([MARKET], NOW)
    assert engine.asked == 6


async def test_a_batch_ends_with_its_third_failure_in_a_row() -> None:
    """Thousands of agents do not wait for an engine that is gone; each is answered."""
    judge, engine = seated(bad)
    answers = await judge.decide([MARKET] * 1000, NOW)
    assert engine.asked == 3
    assert len(answers) == 1000
    assert {one.decision.action for one in answers} == {"stay"}


async def test_an_engine_that_hangs_is_left_after_two_seconds() -> None:
    """The event loop goes on meanwhile, and so does the process when it ends."""
    release = threading.Event()

    def hang() -> Decision:
        release.wait(30)
        return good()

    judge, _ = seated(hang)
    try:
        (judged,) = await judge.decide([MARKET], NOW)
    finally:
        release.set()
    assert judged.active_fallback
    assert judged.fault is not None
    assert "2 s" in judged.fault


async def test_an_answer_that_makes_no_sense_is_a_failure() -> None:
    """To a pool that was not asked about."""
    other = snapshot(pool("a", 0.4), pool("x", 0.1))
    judge, _ = seated(lambda: candidates.switch(other, other.pools[1], 0.7, "why", None))
    (judged,) = await judge.decide([MARKET], NOW)
    assert judged.active_fallback
    assert judged.decision.target_pool_id == f"{TYPE}.a"
