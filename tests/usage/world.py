"""Tenants, keys, models and regions written straight into the database, and records about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from spotplane.v1 import usage_pb2 as pb
from spotplane_server.kernel.auth import secrets
from spotplane_server.kernel.request_context import TenantId

INSERT_TENANT: Final = """
    INSERT INTO tenants (id, name, email, created_at, updated_at)
    VALUES ($1, 'Test', $1::uuid::text || '@example.com', now(), now())
"""
INSERT_ENVIRONMENT: Final = """
    INSERT INTO environments (tenant_id, id, name, region_code, created_at)
    VALUES ($1, $2, $3, 'us-east', now())
"""
INSERT_KEY: Final = """
    INSERT INTO api_keys (tenant_id, id, environment_id, key_hash, key_prefix, name, role,
                          rate_limit_rpm, concurrency_limit, status, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, 1000000, 1000, 'active', now(), now())
"""
INSERT_MODEL: Final = """
    INSERT INTO models (id, name, family, type, context_length, vram_required_gb,
                        price_input_per_million, price_cached_input_per_million,
                        price_output_per_million, created_at, updated_at)
    VALUES ($1, $2, 'Llama', 'chat', 8192, 80, $3::text::numeric, $4::text::numeric,
            $5::text::numeric, now(), now())
"""
INSERT_REGION: Final = """
    INSERT INTO regions (id, code, name, provider, status, cost_multiplier, created_at, updated_at)
    VALUES ($1, $2, $3, 'aws', 'active', $4::text::numeric, now(), now())
"""
INSERT_PRICE: Final = """
    INSERT INTO price_history (kind, ref_id, valid_from, prices)
    VALUES ($1, $2, $3, $4::text::jsonb)
"""


@dataclass(frozen=True)
class Owner:
    """A tenant with two environments and two keys."""

    id: TenantId
    environments: tuple[UUID, UUID]
    keys: tuple[UUID, UUID]
    secret: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The first key, of role ``admin``, as call metadata."""
        return (("authorization", f"Bearer {self.secret}"),)


@dataclass
class World:
    """A connection of the schema's owner, and what was put there with it."""

    conn: asyncpg.Connection[asyncpg.Record]
    models: dict[str, UUID] = field(default_factory=dict)
    regions: dict[str, UUID] = field(default_factory=dict)

    async def tenant(self, role: str = "admin") -> Owner:
        """Add a tenant."""
        tenant = TenantId(uuid4())
        environments, keys = (uuid4(), uuid4()), (uuid4(), uuid4())
        await self.conn.execute(INSERT_TENANT, tenant)
        issued = [secrets.issue("live") for _ in keys]
        for environment, key, secret, name in zip(
            environments, keys, issued, ("first", "second"), strict=True
        ):
            await self.conn.execute(INSERT_ENVIRONMENT, tenant, environment, name)
            await self.conn.execute(
                INSERT_KEY, tenant, key, environment, secret.hash, secret.prefix, name, role
            )
        return Owner(tenant, environments, keys, issued[0].secret)

    async def model(
        self, name: str, full: str = "0.60", output: str = "0.60", cached: str | None = None
    ) -> UUID:
        """Add a model; prices in USD per million tokens."""
        found = self.models[name] = uuid4()
        await self.conn.execute(INSERT_MODEL, found, name, full, cached, output)
        return found

    async def region(self, code: str, multiplier: str = "1") -> UUID:
        """Add a region."""
        found = self.regions[code] = uuid4()
        await self.conn.execute(INSERT_REGION, found, code, code.title(), multiplier)
        return found

    async def price(self, kind: str, ref: UUID, valid_from: datetime, prices: str) -> None:
        """Add a price; ``prices`` as JSON."""
        await self.conn.execute(INSERT_PRICE, kind, ref, valid_from, prices)


def record(
    request_id: str | None = None,
    at: datetime | None = None,
    *,
    prompt: int = 100,
    completion: int = 10,
    **values: Any,
) -> pb.UsageRecord:
    """A valid record, but for what the test sets."""
    if at is not None:
        values["timestamp"] = at.isoformat()
    return pb.UsageRecord(
        request_id=request_id or uuid4().hex,
        prompt_tokens=prompt,
        completion_tokens=completion,
        **values,
    )


def hour_of(at: datetime) -> datetime:
    """Start of an instant's hour."""
    return at.replace(minute=0, second=0, microsecond=0)


def hours(count: float) -> timedelta:
    """A span."""
    return timedelta(hours=count)
