"""Light agents: the Connect stream spoken by hand, so that a client can hold thousands."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final
from uuid import uuid4

import grpc.aio
from spotplane.v1 import agent_pb2, agent_pb2_grpc, agent_stream_pb2

from spotplane_bench.stack import OWN_CONNECTION

INSTANCE_TYPE: Final = "g5.xlarge"
REGION: Final = "us-east-1"
ZONES: Final = ("us-east-1a", "us-east-1b")

Metadata = Sequence[tuple[str, str]]


class LightAgent:
    """One instance's conversation on a connection of its own.

    Attributes:
        ack_seconds: From each heartbeat to its acknowledgement.
        handlers: What to do with a message, by its kind; heartbeats are acknowledged in silence.
    """

    def __init__(
        self, target: str, metadata: Metadata, agent_id: str, instance_id: str, *, beats: bool
    ) -> None:
        self.agent_id = agent_id
        self.instance_id = instance_id
        self.ack_seconds: list[float] = []
        self.handlers: dict[str, Callable[[Any], None]] = {}
        self._metadata = metadata
        self._channel = grpc.aio.insecure_channel(target, OWN_CONNECTION)
        self._call: Any = None
        self._beats = beats
        self._tasks: list[asyncio.Task[None]] = []
        self._sent: dict[int, float] = {}
        self._delay = 5.0
        self._report_seq = 0

    async def connect(self) -> None:
        """Say hello and wait for the welcome."""
        self._call = agent_pb2_grpc.AgentServiceStub(self._channel).Connect(metadata=self._metadata)
        hello = agent_stream_pb2.Hello(
            agent_id=self.agent_id, instance_id=self.instance_id, agent_version="bench"
        )
        await self._call.write(agent_stream_pb2.ConnectRequest(hello=hello))
        first = await self._call.read()
        self._delay = first.welcome.next_heartbeat_delay.ToMicroseconds() / 1e6
        self._tasks.append(asyncio.create_task(self._read()))
        if self._beats:
            self._tasks.append(asyncio.create_task(self._beat()))

    async def report(self, **kind: Any) -> None:
        """Send a report."""
        self._report_seq += 1
        report = agent_stream_pb2.Report(seq=self._report_seq, **kind)
        await self._call.write(agent_stream_pb2.ConnectRequest(report=report))

    async def close(self) -> None:
        """Leave without a word."""
        for task in self._tasks:
            task.cancel()
        if self._call is not None:
            self._call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _beat(self) -> None:
        seq = 0
        while True:
            await asyncio.sleep(self._delay)
            seq += 1
            beat = agent_stream_pb2.Heartbeat(seq=seq, cpu_percent=12.5, memory_percent=50.0)
            self._sent[seq] = time.perf_counter()
            await self._call.write(agent_stream_pb2.ConnectRequest(heartbeat=beat))

    async def _read(self) -> None:
        while True:
            message = await self._call.read()
            if message is grpc.aio.EOF:  # type: ignore[attr-defined]
                return
            kind = message.WhichOneof("kind")
            if kind == "heartbeat_ack":
                ack = message.heartbeat_ack
                self.ack_seconds.append(time.perf_counter() - self._sent.pop(ack.seq))
                self._delay = ack.next_heartbeat_delay.ToMicroseconds() / 1e6
            elif (handler := self.handlers.get(kind)) is not None:
                handler(getattr(message, kind))


async def register(
    stub: Any, metadata: Metadata, name: str, *, zone: str = ZONES[0], **more: Any
) -> tuple[str, str]:
    """Register an instance; answers the agent's id and the instance's."""
    instance_id = f"i-{uuid4().hex[:17]}"
    answer = await stub.Register(
        agent_pb2.RegisterRequest(
            logical_agent_id=name,
            instance_id=instance_id,
            instance_type=INSTANCE_TYPE,
            region=REGION,
            az=zone,
            **more,
        ),
        metadata=metadata,
    )
    return answer.agent_id, instance_id


async def few_at_a_time(works: Sequence[Callable[[], Any]], *, width: int = 16) -> list[Any]:
    """Do all, ``width`` at a time; the results in order."""
    gate = asyncio.Semaphore(width)

    async def one(work: Callable[[], Any]) -> Any:
        async with gate:
            return await work()

    return list(await asyncio.gather(*(one(work) for work in works)))


def hold(pipe: Any, log_path: str, target: str, metadata: Metadata, count: int) -> None:
    """Entry point of a process that holds agents; see `_hold`."""
    import uvloop

    from spotplane_bench.children import log_to

    log_to(log_path)
    uvloop.run(_hold(pipe, target, metadata, count))


async def _hold(pipe: Any, target: str, metadata: Metadata, count: int) -> None:
    """Register agents, then do as told: ``connect`` so many more, ``watch`` for seconds, ``stop``.

    Every order is answered, when it is done.
    """
    async with grpc.aio.insecure_channel(target) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        prefix = uuid4().hex[:8]
        known = await few_at_a_time(
            [partial(register, stub, metadata, f"{prefix}-{n}") for n in range(count)]
        )
    waiting = [LightAgent(target, metadata, *ids, beats=True) for ids in known]
    connected: list[LightAgent] = []
    pipe.send({})
    while True:
        order, value = await asyncio.to_thread(pipe.recv)
        answer: Mapping[str, Any] = {}
        if order == "connect":
            joining, waiting = waiting[: int(value)], waiting[int(value) :]
            await few_at_a_time([agent.connect for agent in joining])
            connected += joining
        elif order == "watch":
            answer = await _watch(connected, value)
        else:
            await asyncio.gather(*(agent.close() for agent in connected))
            pipe.send({})
            return
        pipe.send(answer)


async def _watch(agents: Sequence[LightAgent], seconds: float) -> Mapping[str, Any]:
    for agent in agents:
        agent.ack_seconds.clear()
    await asyncio.sleep(seconds)
    return {"acks": [taken for agent in agents for taken in agent.ack_seconds]}
