"""Who uses what in `bench usage`: tenants with keys, models, regions, and their records.

Uneven, as usage is: the first keys are used most, and each key is an application's, which mostly
uses one model in one region, sometimes a second, rarely any other. The same seed gives the same
records.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID, uuid4

import grpc.aio
from spotplane.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
    usage_pb2,
)

from spotplane_bench import stack

T = TypeVar("T")

CHUNK: Final = 1000
LATE_SHARE: Final = 0.01
MAX_LATE_DAYS: Final = 30
LIVE_SECONDS: Final = 5.0
NODES: Final = 16
# Of a key's records: with its own model or region, with its second, with any.
HABITS: Final = (0.80, 0.15, 0.05)


@dataclass(frozen=True, slots=True)
class Size:
    """How many of everything there are."""

    tenants: int = 4
    keys: int = 20
    models: int = 12
    regions: int = 5


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models and regions, ids and names in step."""

    models: Sequence[model_pb2.Model]
    regions: Sequence[region_pb2.Region]


@dataclass(frozen=True, slots=True)
class User:
    """A tenant, and the ids of its keys, which carry no budget that holds it back."""

    tenant: stack.Tenant
    keys: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class World:
    """All of them."""

    catalog: Catalog
    users: Sequence[User]


async def make(up: stack.Stack, channel: grpc.aio.Channel, size: Size) -> World:
    """Create them through the API."""
    catalog = Catalog(
        [await _model(channel, number) for number in range(size.models)],
        [await _region(channel, number) for number in range(size.regions)],
    )
    users = [await _user(up, channel, size.keys) for _ in range(size.tenants)]
    return World(catalog, users)


async def _model(channel: grpc.aio.Channel, number: int) -> model_pb2.Model:
    model: model_pb2.Model = await model_pb2_grpc.ModelServiceStub(channel).CreateModel(
        model_pb2.CreateModelRequest(
            name=f"bench/model-{number}-{uuid4().hex[:8]}",
            family=f"family-{number % 3}",
            type="chat",
            context_length=8192,
            vram_required_gb=24,
            price_input_per_million=(number + 1) / 20,
            price_cached_input_per_million=(number + 1) / 100,
            price_output_per_million=(number + 1) / 8,
        ),
        metadata=stack.ADMIN,
    )
    return model


async def _region(channel: grpc.aio.Channel, number: int) -> region_pb2.Region:
    region: region_pb2.Region = await region_pb2_grpc.RegionServiceStub(channel).CreateRegion(
        region_pb2.CreateRegionRequest(
            name=f"Bench {number}",
            code=f"bench-usage-{number}",
            provider="aws",
            pricing_multiplier=1 + number / 10,
        ),
        metadata=stack.ADMIN,
    )
    return region


async def _user(up: stack.Stack, channel: grpc.aio.Channel, keys: int) -> User:
    tenant = await stack.new_tenant(up, channel)
    stub = api_key_pb2_grpc.ApiKeyServiceStub(channel)
    made = [
        await stub.CreateApiKey(
            api_key_pb2.CreateApiKeyRequest(tenant_id=tenant.id, name=f"key-{number}"),
            metadata=stack.ADMIN,
        )
        for number in range(keys)
    ]
    return User(tenant, [UUID(key.id) for key in made])


class Traffic:
    """Makes records of users: mostly of the last seconds, one in a hundred up to 30 days late."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = random.Random(seed)

    def chunks(
        self, users: Sequence[User], records: int, *, named: bool = False
    ) -> Iterator[list[usage_pb2.UsageRecord]]:
        """Records by the thousand, each chunk of all the users.

        Args:
            users: Whose; each as often as the others.
            records: How many.
            named: Each record names its tenant, as an administrator's do.
        """
        now = datetime.now(UTC)
        for start in range(0, records, CHUNK):
            count = min(CHUNK, records - start)
            yield [self._record(users[n % len(users)], now, named=named) for n in range(count)]

    def _record(self, user: User, now: datetime, *, named: bool) -> usage_pb2.UsageRecord:
        draw = self._random
        (number,) = draw.choices(range(len(user.keys)), falling(len(user.keys)))
        model = self._habit(self._world.catalog.models, number)
        region = self._habit(self._world.catalog.regions, number)
        prompt = min(int(draw.lognormvariate(6.5, 1.0)) + 1, 32_000)
        record = usage_pb2.UsageRecord(
            request_id=f"req_{draw.getrandbits(120):030x}",
            timestamp=self._instant(now).isoformat(timespec="milliseconds"),
            api_key_id=str(user.keys[number]),
            model=model.name,
            region_code=region.code,
            node_id=f"node-{draw.randrange(NODES)}",
            prompt_tokens=prompt,
            completion_tokens=min(int(draw.lognormvariate(5.0, 1.0)), 8_000),
            latency_ms=min(int(draw.lognormvariate(6.5, 0.8)), 600_000),
            status_code=draw.choices((200, 429, 500, 504), (97, 1, 1, 1))[0],
        )
        if draw.random() < 0.3:
            record.cached_tokens = prompt // 2
        if named:
            record.tenant_id = user.tenant.id
        return record

    def _habit(self, things: Sequence[T], number: int) -> T:
        (which,) = self._random.choices(range(3), HABITS)
        other = number + 1 if which == 1 else self._random.randrange(len(things))
        return things[(number if which == 0 else other) % len(things)]

    def _instant(self, now: datetime) -> datetime:
        if self._random.random() < LATE_SHARE:
            return now - timedelta(days=MAX_LATE_DAYS * self._random.random())
        return now - timedelta(seconds=LIVE_SECONDS * self._random.random())


def falling(count: int) -> list[float]:
    """Shares of the first, the second …, each used less than the one before it."""
    return [1 / (rank + 1) for rank in range(count)]
