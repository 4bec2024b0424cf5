"""Agents spoken by hand: the stream's protocol without the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import agent_pb2, agent_pb2_grpc
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.jobs.runner import Job

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.fleet import REGION, TYPE, ZONES
from tests.support.plane import Metadata, Plane, Refusal, Tenant, refusal


class Conversation:
    """One stream: ``say`` sends, ``hear`` waits for an answer of a kind, ``end`` for its end."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self.call = agent_pb2_grpc.AgentServiceStub(channel).Connect(metadata=metadata)
        self.heard: list[pb.ConnectResponse] = []
        self.beats = 0
        self.reports = 0
        self._error: grpc.aio.AioRpcError | None = None
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for response in self.call:
                self.heard.append(response)
        except grpc.aio.AioRpcError as err:
            self._error = err

    async def say(self, **kind: Any) -> None:
        """Send one message; a stream that is over swallows it."""
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            await self.call.write(pb.ConnectRequest(**kind))

    async def hear(self, kind: str) -> Any:
        """The next answer of a kind."""

        def found() -> pb.ConnectResponse | None:
            return next((r for r in self.heard if r.WhichOneof("kind") == kind), None)

        await eventually(found, every=0.005)
        response = found()
        assert response is not None
        self.heard.remove(response)
        return getattr(response, kind)

    async def hello(self, agent_id: str, instance_id: str, **more: Any) -> pb.Welcome:
        """Open the conversation."""
        hello = pb.Hello(agent_id=agent_id, instance_id=instance_id, **more)
        await self.say(hello=hello)
        welcome: pb.Welcome = await self.hear("welcome")
        return welcome

    async def beat(self, **more: Any) -> pb.HeartbeatAck:
        """Send the next heartbeat."""
        self.beats += 1
        await self.say(heartbeat=pb.Heartbeat(seq=self.beats, **more))
        ack: pb.HeartbeatAck = await self.hear("heartbeat_ack")
        return ack

    async def report(self, **kind: Any) -> str:
        """Send the next report; the reason of its refusal, empty when it was taken."""
        self.reports += 1
        await self.say(report=pb.Report(seq=self.reports, **kind))
        ack: pb.ReportAck = await self.hear("report_ack")
        assert ack.seq == self.reports
        return ack.error.message if ack.HasField("error") else ""

    async def progress(self, command_id: str, stage: Any) -> None:
        """Tell a step of a command."""
        await self.say(command_progress=pb.CommandProgress(command_id=command_id, stage=stage))

    async def finish(self, command_id: str, *, success: bool = True, **result: Any) -> str:
        """Report a command's result."""
        done = pb.CommandResult(command_id=command_id, success=success)
        done.result.update(result)
        return await self.report(command_result=done)

    async def end(self) -> Refusal | None:
        """Wait for the stream's end; None when it ended well."""
        await eventually(self._reader.done, every=0.005)
        return refusal(self._error) if self._error else None

    async def vanish(self) -> None:
        """Go without a word."""
        self.call.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait([self._reader])


class Hand:
    """A tenant's agents spoken by hand, on one plane."""

    def __init__(self, plane: Plane, tenant: Tenant, metadata: Metadata | None = None) -> None:
        self.plane = plane
        self.tenant = tenant
        self.metadata = metadata or tenant.metadata
        self.stub = agent_pb2_grpc.AgentServiceStub(plane.channel)
        self._open: list[Conversation] = []

    async def register(
        self, instance_id: str, name: str = "chat", zone: str = ZONES[0], **more: Any
    ) -> agent_pb2.RegisterResponse:
        """Register an instance on spot."""
        fields = {"instance_type": TYPE, "region": REGION, "az": zone, "mode": "spot"} | more
        response: agent_pb2.RegisterResponse = await self.stub.Register(
            agent_pb2.RegisterRequest(logical_agent_id=name, instance_id=instance_id, **fields),
            metadata=self.metadata,
        )
        return response

    def dial(self, plane: Plane | None = None) -> Conversation:
        """A stream that has said nothing yet; of another server's when one is given."""
        conversation = Conversation((plane or self.plane).channel, self.metadata)
        self._open.append(conversation)
        return conversation

    async def connect(
        self, agent_id: str, instance_id: str, plane: Plane | None = None, **more: Any
    ) -> Conversation:
        """A stream that was welcomed and has its desired state, if it goes that far."""
        conversation = self.dial(plane)
        await conversation.hello(agent_id, instance_id, **more)
        return conversation

    async def start(
        self, instance_id: str, name: str = "chat", zone: str = ZONES[0], **more: Any
    ) -> tuple[str, Conversation]:
        """Register an instance and connect it."""
        registered = await self.register(instance_id, name, zone, **more)
        return registered.agent_id, await self.connect(registered.agent_id, instance_id)

    async def prices(self, conversation: Conversation, *zones: str, region: str = REGION) -> None:
        """Make pools known, the first the cheapest."""
        at = Timestamp()
        at.FromDatetime(self.plane.server.kernel.clock.now())
        spot = [
            pb.PriceReport.SpotPrice(
                instance_type=TYPE, az=zone, price_nanousd_per_hour=300_000_000 + 10_000_000 * n
            )
            for n, zone in enumerate(zones or ZONES)
        ]
        report = pb.PriceReport(region=region, observed_at=at, spot=spot)
        assert await conversation.report(prices=report) == ""

    async def close(self) -> None:
        """End every stream."""
        for conversation in self._open:
            await conversation.vanish()


@asynccontextmanager
async def by_hand(plane: Plane, **key: Any) -> AsyncIterator[Hand]:
    """A new tenant's agents for the block."""
    hand = Hand(plane, await plane.tenant(**key))
    try:
        yield hand
    finally:
        await hand.close()


def job(plane: Plane, name: str) -> Job:
    """A job of the plane's, to be run by hand."""
    return next(job for job in plane.server.parts.jobs if job.name == name)


async def run_job(plane: Plane, name: str) -> int:
    """Run a job once, now."""
    return await job(plane, name).run_once(plane.server.kernel.clock.now())


async def listening(plane: Plane) -> None:
    """Wait until the plane takes heartbeats down; before that nobody's silence counts."""

    async def since() -> bool:
        async with plane.db.connection(ALL_TENANTS) as conn:
            return bool(await conn.fetchval("SELECT since > '-infinity' FROM heartbeat_collection"))

    await eventually(since)


HEARD: Final = "UPDATE agent_sessions SET last_heartbeat_at = $1 WHERE instance_id <> $2"


async def jump(plane: Plane, clock: FakeClock, by: timedelta, *, but: str = "") -> None:
    """Jump ahead with everybody heard all along: no job may take the jump for their silence.

    Args:
        plane: Whose agents.
        clock: What jumps.
        by: How far.
        but: An instance that is silent.
    """
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute(HEARD, clock.now() + by, but)
    clock.advance(by)


async def bind(speaker: Conversation, replica_id: str) -> str:
    """Have a replica's instance reported as synchronizing; its id."""
    instance_id = f"i-{uuid4().hex[:12]}"
    refused = await speaker.report(
        replica=pb.ReplicaReport(replica_id=replica_id, instance_id=instance_id, status="syncing")
    )
    assert refused == ""
    return instance_id
