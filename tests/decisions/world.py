"""Agents that serve in a market of three zones, and what an operator asks of decisions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
from spotplane.v1 import decision_pb2 as pb
from spotplane.v1 import decision_pb2_grpc
from spotplane_server.decisions.engine_registry import Panel
from spotplane_server.decisions.loop import DecisionLoop

from tests.support.fleet import REGION, TYPE, ZONES, Calls
from tests.support.link import Conversation, Hand, job
from tests.support.plane import ADMIN, Plane

A, B, C = (f"{TYPE}.{zone}" for zone in ZONES)
DOLLAR = 1_000_000_000

PUT_POOL = """
    INSERT INTO pools (id, instance_type, region, az, price_nanousd, price_observed_at, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $6)
    ON CONFLICT (id) DO UPDATE SET price_nanousd = excluded.price_nanousd,
                                   price_observed_at = excluded.price_observed_at
"""
PUT_CLEAN = """
    INSERT INTO clean_prices (pool_id, bucket_at, price_nanousd, source, confidence, observed_at,
                              submission_id, revision)
    VALUES ($1, to_timestamp(floor(extract(epoch FROM $2::timestamptz) / 300) * 300), $3, 'primary',
            1, $2, gen_random_uuid()::text, 0)
    ON CONFLICT (pool_id, bucket_at) DO UPDATE SET price_nanousd = excluded.price_nanousd,
                                                   observed_at = excluded.observed_at
"""
PUT_ON_DEMAND = """
    INSERT INTO on_demand_prices (region, instance_type, price_nanousd, observed_at)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (region, instance_type) DO UPDATE SET price_nanousd = excluded.price_nanousd,
                                                      observed_at = excluded.observed_at
"""
PUT_INTERRUPTION = """
    INSERT INTO pool_interruptions (pool_id, instance_id, occurred_at) VALUES ($1, $2, $3)
"""

HOLD_LOOP = """
    INSERT INTO leases (name, holder, token, expires_at) VALUES ($1, 'the test', 1, 'infinity')
    ON CONFLICT (name) DO UPDATE SET holder = 'the test', expires_at = 'infinity'
"""


class World:
    """One plane with a tenant's agents, its market, and the calls on decisions."""

    def __init__(self, plane: Plane, hand: Hand) -> None:
        self.plane = plane
        self.hand = hand
        self.calls = Calls(plane.channel, hand.tenant)
        self.stub = decision_pb2_grpc.DecisionServiceStub(plane.channel)

    @property
    def now(self) -> datetime:
        """The plane's time."""
        return self.plane.server.kernel.clock.now()

    async def owner(self, statement: str, *arguments: Any) -> list[Any]:
        """Run a statement as the schema's owner."""
        conn = await asyncpg.connect(self.plane.database_url)
        try:
            return list(await conn.fetch(statement, *arguments))
        finally:
            await conn.close()

    async def hold_loop(self) -> None:
        """Run the loop only by hand: servers leave it to whoever holds its lease."""
        await self.owner(HOLD_LOOP, f"job:{DecisionLoop.name}")

    async def market(
        self, *dollars: float | None, on_demand: float = 1.0, at: datetime | None = None
    ) -> None:
        """Clean prices of the zones in their order, seen at an instant; None leaves one out."""
        seen = at or self.now
        await self.owner(PUT_ON_DEMAND, REGION, TYPE, round(on_demand * DOLLAR), seen)
        for zone, price in zip(ZONES, dollars, strict=False):
            if price is not None:
                nanos = round(price * DOLLAR)
                pool = f"{TYPE}.{zone}"
                await self.owner(PUT_POOL, pool, TYPE, REGION, zone, nanos, seen)
                await self.owner(PUT_CLEAN, pool, seen, nanos)

    async def interruptions(self, pool: str, count: int) -> None:
        """So many instances were interrupted in a pool."""
        for _ in range(count):
            await self.owner(PUT_INTERRUPTION, pool, f"i-{uuid4().hex[:12]}", self.now)

    async def agent(
        self, name: str = "chat", zone: str = ZONES[0], **config: Any
    ) -> tuple[str, Conversation]:
        """A connected agent on spot that may be switched at once."""
        agent_id, stream = await self.hand.start(f"i-{name}", name, zone)
        settings: dict[str, Any] = {"min_pool_duration_hours": 0, **config}
        await self.calls.configure(agent_id, **settings)
        return agent_id, stream

    async def loop(self, plane: Plane | None = None, now: datetime | None = None) -> int:
        """Run the decision loop of a server once."""
        found = job(plane or self.plane, DecisionLoop.name)
        return await found.run_once(now or self.now)

    async def decisions(self, agent_id: str) -> list[Any]:
        """What is stored of an agent, newest first."""
        return await self.owner(
            "SELECT * FROM decisions WHERE agent_id = $1 ORDER BY decided_at DESC", agent_id
        )

    async def switches(self, agent_id: str) -> list[Any]:
        """Its switch commands, oldest first."""
        return await self.owner(
            "SELECT * FROM agent_commands WHERE agent_id = $1 AND type = 'switch'"
            " ORDER BY created_at",
            agent_id,
        )

    async def events(self, kind: str) -> list[Any]:
        """Events of a type, oldest first."""
        return await self.owner(
            "SELECT * FROM outbox_events WHERE event_type = $1 ORDER BY txid, seq", kind
        )

    async def recommend(self, agent_id: str) -> pb.GetRecommendationResponse:
        """Ask what would be done."""
        answer: pb.GetRecommendationResponse = await self.stub.GetRecommendation(
            pb.GetRecommendationRequest(agent_id=agent_id), metadata=self.hand.metadata
        )
        return answer

    async def issue(self, agent_id: str, mode: str, **more: Any) -> pb.IssueSwitchResponse:
        """Order a switch by hand."""
        answer: pb.IssueSwitchResponse = await self.stub.IssueSwitch(
            pb.IssueSwitchRequest(agent_id=agent_id, target_mode=mode, **more),
            metadata=self.hand.metadata,
        )
        return answer

    async def decide(self, agent_id: str, **more: Any) -> pb.DecideResponse:
        """Ask for a decision."""
        answer: pb.DecideResponse = await self.stub.Decide(
            pb.DecideRequest(agent_id=agent_id, **more), metadata=self.hand.metadata
        )
        return answer


class Engines:
    """What an administrator does with engines, on one server."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.stub = decision_pb2_grpc.DecisionServiceStub(plane.channel)

    async def upload_model(self, *files: tuple[str, bytes], **named: Any) -> str:
        """Upload a session; its id."""
        parts = [*_parts(pb.UploadModelRequest, files), pb.UploadModelRequest(**named)]
        answer = await self.stub.UploadModel(_stream(parts), metadata=ADMIN)
        return str(answer.session_id)

    async def upload_engine(self, *files: tuple[str, bytes]) -> pb.UploadEngineResponse:
        """Upload an engine that is live at once."""
        answer: pb.UploadEngineResponse = await self.stub.UploadEngine(
            _stream(_parts(pb.UploadEngineRequest, files)), metadata=ADMIN
        )
        return answer

    async def activate(self, session_id: str, *, force: bool = False) -> pb.EngineStatus:
        """Make a session live."""
        answer = await self.stub.ActivateSession(
            pb.ActivateSessionRequest(session_id=session_id, force=force), metadata=ADMIN
        )
        status: pb.EngineStatus = answer.engine
        return status

    async def fall_back(self) -> pb.ActivateFallbackResponse:
        """Swap live and fallback."""
        answer: pb.ActivateFallbackResponse = await self.stub.ActivateFallback(
            pb.ActivateFallbackRequest(), metadata=ADMIN
        )
        return answer

    async def sessions(self) -> list[pb.ModelSession]:
        """The newest sessions."""
        answer = await self.stub.ListSessions(pb.ListSessionsRequest(), metadata=ADMIN)
        return list(answer.sessions)

    async def status(self) -> pb.GetEngineStatusResponse:
        """What decides in that server."""
        answer: pb.GetEngineStatusResponse = await self.stub.GetEngineStatus(
            pb.GetEngineStatusRequest(), metadata=ADMIN
        )
        return answer


def panel_of(plane: Plane) -> Panel:
    """The panel of a server's loop."""
    found = job(plane, DecisionLoop.name)
    assert isinstance(found, DecisionLoop)
    return found.panel


def _parts(kind: Any, files: Sequence[tuple[str, bytes]]) -> list[Any]:
    parts = []
    for name, data in files:
        half = len(data) // 2
        parts += [kind(file_name=name, data=data[:half]), kind(data=data[half:])]
    return parts


async def _stream(parts: Iterable[Any]) -> AsyncIterator[Any]:
    for part in parts:
        yield part


def hours(count: float) -> timedelta:
    """A span."""
    return timedelta(hours=count)
