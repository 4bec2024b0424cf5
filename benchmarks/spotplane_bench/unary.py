"""Authenticated unary reads against a bare grpc.aio server with the same messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc.aio
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc, region_pb2, region_pb2_grpc

from spotplane_bench import children, load, stack
from spotplane_bench.results import Aim, Result, Row


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard."""

    concurrency: int = 32
    seconds: float = 4.0
    rounds: int = 7


QUICK = Plan(seconds=1.0, rounds=3)
TINY = Plan(concurrency=4, seconds=0.1, rounds=1)


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    async with up.plane() as plane, grpc.aio.insecure_channel(plane.target) as channel:
        tenant = await stack.new_tenant(up, channel)
        region = await some_region(region_pb2_grpc.RegionServiceStub(channel))
        read, listing = _reads(channel, region.id, tenant)
        answers = [(await ask()).SerializeToString() for ask in (read, listing)]
        async with (
            up.child(children.serve_echo, *answers) as echo,
            grpc.aio.insecure_channel(echo.target) as bare,
        ):
            bare_read, bare_listing = _reads(bare, region.id, tenant)
            samples = await load.alternate(
                {
                    "bare_region": (bare_read, echo.pid),
                    "region": (read, plane.pid),
                    "bare_keys": (bare_listing, echo.pid),
                    "keys": (listing, plane.pid),
                },
                concurrency=plan.concurrency,
                seconds=plan.seconds,
                rounds=plan.rounds,
            )
    return _result(plan, samples, [len(answer) for answer in answers])


def _reads(
    channel: grpc.aio.Channel, region_id: str, tenant: stack.Tenant
) -> tuple[load.Ask, load.Ask]:
    regions = region_pb2_grpc.RegionServiceStub(channel)
    keys = api_key_pb2_grpc.ApiKeyServiceStub(channel)
    request = region_pb2.GetRegionRequest(id=region_id)
    listing = api_key_pb2.ListOwnApiKeysRequest()
    return (
        lambda: regions.GetRegion(request, metadata=stack.ADMIN),
        lambda: keys.ListOwnApiKeys(listing, metadata=tenant.metadata),
    )


async def some_region(stub: Any) -> region_pb2.Region:
    """A region to read, made now."""
    region: region_pb2.Region = await stub.CreateRegion(
        region_pb2.CreateRegionRequest(
            name="Bench", code="bench-1", provider="aws", country="Ireland", city="Dublin"
        ),
        metadata=stack.ADMIN,
    )
    return region


def _result(plan: Plan, samples: dict[str, list[load.Sample]], sizes: list[int]) -> Result:
    aim = Aim(0.5, at_most=False)

    def row(title: str, name: str) -> Row:
        ours, bare = samples[name], samples[f"bare_{name}"]
        return Row(title, load.rate(ours), "calls/s", load.rate(bare), load.ratio(ours, bare), aim)

    return Result(
        "unary",
        "bare grpc.aio server, same messages, same client, alternating rounds",
        [
            row("GetRegion, administrator's token", "region"),
            row("ListOwnApiKeys, tenant's key", "keys"),
        ],
        {
            "concurrency": plan.concurrency,
            "seconds": plan.seconds,
            "rounds": plan.rounds,
            "answer_bytes": sizes,
            **{name: load.summary(found) for name, found in samples.items()},
        },
    )
