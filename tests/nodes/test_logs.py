"""Logs of nodes, at once and followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import orjson
from spotplane.v1 import node_pb2 as pb

from tests.nodes.world import Nodes
from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, refused


def events(data: bytes) -> list[tuple[str, Any]]:
    """Names and data of the events in some bytes of a stream."""
    found = []
    for block in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if fields:
            found.append((fields["event"], orjson.loads(fields["data"])))
    return found


async def _follow(nodes: Nodes, node_id: str, **members: Any) -> AsyncIterator[tuple[str, Any]]:
    request = pb.StreamNodeLogsRequest(id=node_id, **members)
    async for part in nodes.stub.StreamNodeLogs(request, metadata=ADMIN):
        assert part.content_type == "text/event-stream"
        for event in events(part.data):
            yield event


async def test_a_launch_is_followed_to_its_end(nodes: Nodes) -> None:
    """Lines and states as they come, and `done` when it is active."""
    made = await nodes.launch()
    seen: list[tuple[str, Any]] = []
    begun = asyncio.Event()

    async def follow() -> None:
        async for event in _follow(nodes, made.node_id):
            seen.append(event)
            begun.set()

    following = asyncio.ensure_future(follow())
    await begun.wait()
    [work] = await nodes.lease()
    await nodes.report(work, phase="instance_ready", message="i-1 runs", machine_id="i-1")
    await nodes.register(made.cluster_name)
    await following

    assert [d["message"] for name, d in seen if name == "log"] == await nodes.logs(made.node_id)
    states = [(d["status"], d["stage"]) for name, d in seen if name == "status"]
    assert (states[0], states[-1]) == (("launching", "queued"), ("active", "active"))
    assert seen[-1] == ("done", {"status": "active"})
    [line] = [d for name, d in seen if name == "log" and d["message"] == "i-1 runs"]
    assert (line["phase"], line["progress"], line["level"]) == ("instance_ready", 40, "info")
    assert line["timestamp"].endswith("Z")


async def test_a_launch_that_fails_ends_its_log_with_the_error(nodes: Nodes) -> None:
    """`error` says why, then `done`."""
    made = await nodes.launch()
    [work] = await nodes.lease()
    await nodes.report(work, "failed", retryable=False, message="no such image")
    seen = [event async for event in _follow(nodes, made.node_id, follow=False)]
    assert seen[-2:] == [
        ("error", {"message": "no such image"}),
        ("done", {"status": "terminating"}),
    ]


async def test_a_log_is_read_from_its_end_and_from_an_instant(
    nodes: Nodes, clock: FakeClock
) -> None:
    """Lines older than a day are not shown."""
    made = await nodes.launch()
    [work] = await nodes.lease()
    clock.advance(timedelta(seconds=10))
    for number in range(3):
        await nodes.report(work, message=f"line {number}")

    assert await nodes.logs(made.node_id, tail=2) == ["line 1", "line 2"]
    since = (clock.now() - timedelta(seconds=5)).isoformat()
    assert await nodes.logs(made.node_id, since=since) == ["line 0", "line 1", "line 2"]
    clock.advance(timedelta(hours=24))
    assert await nodes.logs(made.node_id) == []
    for members, field in (({"tail": 0}, "tail"), ({"tail": 1001}, "tail")):
        async with refused("OUT_OF_RANGE", field=field):
            await nodes.logs(made.node_id, **members)
        async with refused("OUT_OF_RANGE", field=field):
            [_ async for _ in _follow(nodes, made.node_id, **members)]
    async with refused("INVALID_DATE", field="since"):
        await nodes.logs(made.node_id, since="today")
    for wrong, reason in ((str(uuid4()), "NODE_NOT_FOUND"), ("7", "INVALID_ID")):
        async with refused(reason):
            await nodes.logs(wrong)
        async with refused(reason):
            [_ async for _ in _follow(nodes, wrong)]
