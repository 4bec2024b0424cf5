"""One read through every door: gRPC direct and through Envoy, REST by the bridge and by Envoy."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc.aio
from spotplane.v1 import region_pb2, region_pb2_grpc
from spotplane_bridge.edge.config import Exposed

from spotplane_bench import load, stack, unary
from spotplane_bench.results import Result, Row


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard."""

    concurrency: int = 32
    seconds: float = 4.0
    rounds: int = 5


QUICK = Plan(seconds=1.0, rounds=3)
TINY = Plan(concurrency=4, seconds=0.1, rounds=1)

_NAMES = {
    "bridge": "REST, bridge",
    "transcoder": "REST, Envoy's transcoder",
    "grpc_edge": "gRPC through Envoy",
}


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        plane = await enter(up.plane())
        bridge = await enter(up.bridge(plane))
        edge = await enter(
            up.edge(plane, bridge, max_connections_per_address=0, exposed=frozenset(Exposed))
        )
        channel = await enter(grpc.aio.insecure_channel(plane.target))
        edge_channel = await enter(grpc.aio.insecure_channel(edge.target))
        http = await enter(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        stub = region_pb2_grpc.RegionServiceStub(channel)
        region = await unary.some_region(stub)
        through_envoy = region_pb2_grpc.RegionServiceStub(edge_channel)
        samples = await load.alternate(
            {
                "direct": (_by_grpc(stub, region.id), plane.pid),
                "bridge": (_by_rest(http, bridge.target, region.id), bridge.pid),
                "transcoder": (_by_rest(http, edge.target, region.id), edge.pid),
                "grpc_edge": (_by_grpc(through_envoy, region.id), edge.pid),
            },
            concurrency=plan.concurrency,
            seconds=plan.seconds,
            rounds=plan.rounds,
        )
    return _result(plan, samples)


def _by_grpc(stub: Any, region_id: str) -> load.Ask:
    request = region_pb2.GetRegionRequest(id=region_id)
    return lambda: stub.GetRegion(request, metadata=stack.ADMIN)


def _by_rest(http: aiohttp.ClientSession, host: str, region_id: str) -> load.Ask:
    url = f"http://{host}/admin/regions/{region_id}"
    headers = {"X-Admin-Token": stack.ADMIN_TOKEN}

    async def get() -> None:
        async with http.get(url, headers=headers) as answer:
            answer.raise_for_status()
            await answer.read()

    return get


def _result(plan: Plan, samples: dict[str, list[load.Sample]]) -> Result:
    direct = samples["direct"]
    return Result(
        "doors",
        "the same read by gRPC straight to the server, alternating rounds",
        [
            Row(
                _NAMES[name],
                load.rate(found),
                "calls/s",
                load.rate(direct),
                load.ratio(found, direct),
            )
            for name, found in samples.items()
            if name != "direct"
        ],
        {
            "concurrency": plan.concurrency,
            "seconds": plan.seconds,
            "rounds": plan.rounds,
            "cpu": "of the door's own process, per answer",
            **{name: load.summary(found) for name, found in samples.items()},
        },
    )
