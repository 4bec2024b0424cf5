"""Two servers on one database, tenants that use something, and their budgets."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import grpc.aio
import orjson
from spotplane.v1 import (
    budget_pb2,
    budget_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

from tests.support.clock import FakeClock
from tests.support.link import run_job
from tests.support.plane import ADMIN, Metadata, Plane, Tenant
from tests.tenants.api import holder, outcome, rows

# A token costs one nano-dollar.
MODEL: Final = "penny"
_EVENTS: Final = """
    SELECT event_type, data::text AS data
      FROM outbox_events
     WHERE aggregate_id = $1 AND event_type LIKE 'budget.%'
     ORDER BY txid, seq
"""


@dataclass(frozen=True)
class World:
    """Servers that know a model, by whose tokens money is spent to the nano."""

    plane: Plane
    second: Plane
    clock: FakeClock

    async def furnish(self) -> None:
        """Make the model."""
        await model_pb2_grpc.ModelServiceStub(self.plane.channel).CreateModel(
            model_pb2.CreateModelRequest(
                name=MODEL,
                family="Test",
                type="chat",
                context_length=8192,
                vram_required_gb=1,
                price_input_per_million=0.001,
            ),
            metadata=ADMIN,
        )

    async def spend(
        self,
        tenant: Tenant,
        nanos: int,
        *,
        key_id: str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Use as much, by the tenant's key or by one of its others."""
        record = usage_pb2.UsageRecord(
            request_id=uuid4().hex,
            model=MODEL,
            prompt_tokens=nanos,
            completion_tokens=0,
            timestamp=(at or self.clock.now()).isoformat(),
            api_key_id=key_id,
        )
        answer = await usage_pb2_grpc.UsageServiceStub(self.plane.channel).IngestUsageBatch(
            usage_pb2.IngestUsageBatchRequest(records=[record]), metadata=tenant.metadata
        )
        assert answer.accepted == 1, answer

    async def create(self, tenant: Tenant, **settings: Any) -> budget_pb2.Budget:
        """Create a budget of 1000 nano-dollars a day, or otherwise."""
        given: dict[str, Any] = {"name": "b", "period": "day"} | settings
        if "limit_usd" not in given:
            given.setdefault("limit_nanos", 1000)
        budget: budget_pb2.Budget = await self.call("CreateBudget", tenant_id=tenant.id, **given)
        return budget

    async def get(self, budget: budget_pb2.Budget) -> budget_pb2.Budget:
        """Read a budget."""
        found: budget_pb2.Budget = await self.call(
            "GetBudget", tenant_id=budget.tenant_id, id=budget.id
        )
        return found

    async def update(self, budget: budget_pb2.Budget, **settings: Any) -> budget_pb2.Budget:
        """Change a budget."""
        changed: budget_pb2.Budget = await self.call(
            "UpdateBudget", tenant_id=budget.tenant_id, id=budget.id, **settings
        )
        return changed

    async def call(self, method: str, /, metadata: Metadata = ADMIN, **fields: Any) -> Any:
        """Call a method of BudgetService."""
        stub = budget_pb2_grpc.BudgetServiceStub(self.plane.channel)
        name = method
        return await getattr(stub, name)(
            getattr(budget_pb2, f"{name}Request")(**fields), metadata=metadata
        )

    async def look(self) -> None:
        """Let both servers look at every budget, at once and again."""
        await asyncio.gather(run_job(self.plane, "budgets"), run_job(self.second, "budgets"))
        await run_job(self.second, "budgets")

    async def told(self, budget: budget_pb2.Budget) -> list[tuple[str, Any]]:
        """What was told of a budget: kinds of events with their shares, oldest first."""
        found = await rows(self.plane, _EVENTS, budget.id)
        return [
            (row["event_type"].removeprefix("budget."), orjson.loads(row["data"]).get(_SHARE))
            for row in found
        ]

    async def tries(self, key: str, plane: Plane | None = None) -> Counter[str]:
        """What parallel calls that change something are told."""
        caller = holder(plane or self.second, key)
        calls = (outcome(caller("CreateOwnApiKey")) for _ in range(10))
        return Counter(await asyncio.gather(*calls))


_SHARE: Final = "threshold_pct"


async def trailers(call: Any) -> dict[str, Any]:
    """Await a call that is refused; what came with the refusal."""
    try:
        await call
    except grpc.aio.AioRpcError as err:
        return dict(iter(err.trailing_metadata() or ()))
    raise AssertionError("the call was not refused")
