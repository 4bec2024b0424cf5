"""Every attack of `spotplane bench abuse` in miniature: its outcome, and that others are served."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

import aiohttp
import pytest
from spotplane.v1 import region_pb2, region_pb2_grpc
from spotplane_bench.abuse.catalogue import ATTACKS

from tests.abuse.conftest import Stack
from tests.support.plane import ADMIN

UNAUTHENTICATED: Final = {"UNAUTHENTICATED"}
# What each may lead to, where it is a matter of a status; the others have tests of their own.
STATUSES: Final[dict[str, Set[str]]] = {
    "gRPC messages of empty submessages, no metadata": UNAUTHENTICATED,
    "REST usage records, no credential": {"401"},
    "REST pricing report, unknown token": {"401", "413"},
    "REST command of empty lists, unknown token": {"401", "413"},
    "REST command of nested lists, unknown token": {"401", "413"},
    "Envoy, oversized headers": {"431"},
}


@pytest.mark.timeout(120)  # several seconds of attacks on one stack
async def test_every_attack_leaves_the_service_to_others(stack: Stack, edge: str) -> None:
    target = await stack.target(edge)
    regions = region_pb2_grpc.RegionServiceStub(stack.plane.channel)
    async with aiohttp.ClientSession() as http:
        for name, entry in ATTACKS.items():
            outcome = await entry.attack(target, entry.tiny)

            assert outcome, name
            if name in STATUSES:
                assert set(outcome) <= STATUSES[name], (name, outcome)
            for address in (stack.bridge, edge):
                async with http.get(f"http://{address}/health") as answer:
                    assert answer.status == 200, (name, address)
            await regions.ListRegions(region_pb2.ListRegionsRequest(), metadata=ADMIN)
