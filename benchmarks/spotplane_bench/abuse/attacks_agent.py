"""Floods on the stream of one agent."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias
from uuid import uuid4

import grpc.aio
from spotplane.v1 import agent_pb2_grpc
from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_bench.abuse.target import Outcome, Size, Target

Call: TypeAlias = grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]


async def heartbeat_flood(target: Target, size: Size) -> Outcome:
    """Send heartbeats without waiting for the pace that the server sets."""
    return await _flood(
        target, size, lambda n: pb.ConnectRequest(heartbeat=pb.Heartbeat(seq=n, cpu_percent=1.0))
    )


async def report_flood(target: Target, size: Size) -> Outcome:
    """Send price reports without waiting for their acknowledgements."""
    price = pb.PriceReport.SpotPrice(
        instance_type="g5.xlarge", az="us-east-1a", price_nanousd_per_hour=300_000_000
    )
    report = pb.PriceReport(region="us-east-1", spot=[price])
    report.observed_at.GetCurrentTime()
    return await _flood(
        target, size, lambda n: pb.ConnectRequest(report=pb.Report(seq=n, prices=report))
    )


async def result_flood(target: Target, size: Size) -> Outcome:
    """Send results of commands that were never issued."""

    def result(n: int) -> pb.ConnectRequest:
        done = pb.CommandResult(command_id=str(uuid4()), success=True)
        return pb.ConnectRequest(report=pb.Report(seq=n, command_result=done))

    return await _flood(target, size, result)


async def progress_flood(target: Target, size: Size) -> Outcome:
    """Send progress of a command that was never issued; it is not acknowledged."""
    step = pb.CommandProgress(command_id=str(uuid4()), stage=pb.CommandProgress.STAGE_STARTED)
    return await _flood(target, size, lambda _n: pb.ConnectRequest(command_progress=step))


async def reconnect_flood(target: Target, size: Size) -> Outcome:
    """Open the session of one instance again and again; each replaces the one before."""
    outcome: Outcome = Counter()
    loop = asyncio.get_running_loop()
    until = loop.time() + size.seconds
    async with grpc.aio.insecure_channel(target.server) as channel:
        for _ in range(size.count):
            if loop.time() >= until:
                break
            call = await _connected(channel, target)
            outcome[await _answer(call)] += 1
            call.cancel()
    return outcome


async def _flood(target: Target, size: Size, make: Callable[[int], pb.ConnectRequest]) -> Outcome:
    """Send messages as fast as the stream takes them; a stream that ends is opened again."""
    outcome: Outcome = Counter()
    loop = asyncio.get_running_loop()
    until = loop.time() + size.seconds
    async with grpc.aio.insecure_channel(target.server) as channel:
        sent = 0
        while sent < size.count and loop.time() < until:
            call = await _connected(channel, target)
            if await _answer(call) != "welcome":
                outcome[(await call.code()).name] += 1
                await asyncio.sleep(0.05)
                continue
            reader = asyncio.create_task(_count(call, outcome))
            first = sent
            try:
                async with asyncio.timeout_at(until):
                    while sent < size.count:
                        sent += 1
                        await call.write(make(sent - first))
                    await call.done_writing()
                    outcome[(await call.code()).name] += 1
            except TimeoutError:
                outcome["held"] += 1
            except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                outcome[(await call.code()).name] += 1
            call.cancel()
            await asyncio.wait([reader])
    outcome["sent"] = sent
    return outcome


async def _connected(channel: grpc.aio.Channel, target: Target) -> Call:
    call: Call = agent_pb2_grpc.AgentServiceStub(channel).Connect(metadata=target.metadata)
    hello = pb.Hello(agent_id=target.agent_id, instance_id=target.instance_id)
    # A stream that has ended says why by its status.
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        await call.write(pb.ConnectRequest(hello=hello))
    return call


async def _answer(call: Call) -> str:
    """The kind of the first response, or the status."""
    try:
        response = await call.read()
    except grpc.aio.AioRpcError as err:
        return err.code().name
    if not isinstance(response, pb.ConnectResponse):
        return (await call.code()).name
    return response.WhichOneof("kind") or ""


async def _count(call: Call, outcome: Outcome) -> None:
    # The status at the end is counted by the writer.
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        while isinstance(response := await call.read(), pb.ConnectResponse):
            outcome[response.WhichOneof("kind") or ""] += 1
