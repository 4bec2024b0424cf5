"""A remote engine is a real gRPC server that may fail, be late, or say nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from spotplane.engine.v1 import engine_pb2 as pb
from spotplane.engine.v1 import engine_pb2_grpc
from spotplane_server.decisions.circuit_breaker import OPEN_FOR, Judge
from spotplane_server.decisions.engine_runners import Elsewhere
from spotplane_server.decisions.engines.remote import RemoteEngine

from tests.decisions.markets import NOW, TYPE, pool, rising, snapshot

MARKET = snapshot(rising("a", 0.5, 0.4), pool("b", 0.3), memory={"since": 5.0})
GOOD: dict[str, Any] = {
    "decision": "switch",
    "target_mode": "spot",
    "target_pool_id": f"{TYPE}.b",
    "confidence": 0.9,
    "risk_score": 0.1,
    "expected_savings": 0.1,
    "reasoning": "cheaper",
    "reason_class": "savings",
}


class Engine(engine_pb2_grpc.DecisionEngineServiceServicer):
    """Answers what it is told to."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] = GOOD
        self.hang = False
        self.fail = False
        self.asked: list[pb.DecideRequest] = []

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        return pb.DescribeResponse(name="theirs", version="4")

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        self.asked.append(request)
        if self.hang:
            await asyncio.Event().wait()
        if self.fail:
            await context.abort(grpc.StatusCode.INTERNAL, "a secret of theirs")
        return pb.DecideResponse(**self.answer)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Judge, Engine]]:
    """An engine on a free port, and a judge who asks it."""
    engine, server = Engine(), grpc.aio.server()
    engine_pb2_grpc.add_DecisionEngineServiceServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    judge, seat = Judge(), Elsewhere(RemoteEngine(f"grpc://127.0.0.1:{port}"))
    await seat.introduce()
    judge.put(seat)
    try:
        yield judge, engine
    finally:
        await seat.close()
        await server.stop(None)


async def test_a_remote_engine_is_told_all_and_decides() -> None:
    """Under its own name and version."""
    async with serving() as (judge, engine):
        (judged,) = await judge.decide([MARKET], NOW)
    assert (judged.engine, judged.version, judged.active_fallback) == ("theirs", "4", False)
    assert judged.decision.target_pool_id == f"{TYPE}.b"
    (asked,) = engine.asked
    assert [view.id for view in asked.pools] == [f"{TYPE}.a", f"{TYPE}.b"]
    assert [point.price for point in asked.pools[0].history] == [0.5, 0.4]
    assert (asked.mode, asked.memory["since"]) == ("spot", 5.0)
    assert asked.limits.max_switches_per_day == 3


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": None},
        {"risk_score": None},
        {"decision": ""},
        {"target_pool_id": "m5.large.a"},
        {"confidence": 2.0},
        {"reason_class": "mood"},
    ],
)
async def test_what_is_missing_or_out_of_range_is_a_failure(change: dict[str, Any]) -> None:
    """Nothing is guessed."""
    async with serving() as (judge, engine):
        engine.answer = GOOD | change
        (judged,) = await judge.decide([MARKET], NOW)
    assert judged.active_fallback
    assert judged.decision.action == "stay"


async def test_a_late_answer_is_a_failure() -> None:
    """After two seconds, whatever the service does."""
    async with serving() as (judge, engine):
        engine.hang = True
        (judged,) = await judge.decide([MARKET], NOW)
    assert judged.fault is not None
    assert "DEADLINE_EXCEEDED" in judged.fault


async def test_a_failing_service_is_left_alone_and_its_words_stay_there() -> None:
    """Three failures, five minutes; then it may decide again."""
    async with serving() as (judge, engine):
        engine.fail = True
        for _ in range(6):
            (judged,) = await judge.decide([MARKET], NOW)
        assert judged.fault is not None
        assert "secret" not in judged.fault
        assert len(engine.asked) == 3

        engine.fail = False
        (judged,) = await judge.decide([MARKET], NOW + OPEN_FOR)
        assert not judged.active_fallback


async def test_nobody_at_the_address_is_a_failure_too() -> None:
    """And no reason not to start."""
    judge, seat = Judge(), Elsewhere(RemoteEngine("grpc://127.0.0.1:1"))
    await seat.introduce()
    judge.put(seat)
    (judged,) = await judge.decide([MARKET], NOW)
    await seat.close()
    assert judged.active_fallback
