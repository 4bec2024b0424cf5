"""A tenant's fleet by hand: agents that poll, their instances, prices and reports."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import agent_pb2, agent_pb2_grpc, fleet_pb2, fleet_pb2_grpc
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.support.clock import FakeClock
from tests.support.plane import Metadata, Plane, Tenant

TYPE: Final = "t3.medium"
REGION: Final = "us-east-1"
ZONES: Final = ("us-east-1a", "us-east-1b", "us-east-1c")
POOLS: Final = tuple(f"{TYPE}.{zone}" for zone in ZONES)
ON_DEMAND: Final = 41_600_000
SPOT: Final = (20_000_000, 15_000_000, 12_500_000)

_PUT_POOL: Final = """
    INSERT INTO pools (id, instance_type, region, az, price_nanousd, price_observed_at, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $6)
    ON CONFLICT (id) DO UPDATE SET price_nanousd = $5, price_observed_at = $6
"""
_PUT_ON_DEMAND: Final = """
    INSERT INTO on_demand_prices (region, instance_type, price_nanousd, observed_at)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (region, instance_type) DO UPDATE SET price_nanousd = $3, observed_at = $4
"""
_GET_SWITCHES: Final = """
    SELECT id, agent_id, command_id, old_instance_id, new_instance_id, old_mode, new_mode,
           old_pool_id, new_pool_id, trigger, cause, success, error_message, old_price_nanousd,
           new_price_nanousd, savings_impact_nanousd, downtime_seconds, duration_seconds, reported,
           goodbye_owed_until, initiated_at, ready_at
      FROM switches
     WHERE tenant_id = $1
     ORDER BY created_at, id
"""


class World:
    """One tenant on a plane, and what its agents and operators do."""

    def __init__(self, plane: Plane, tenant: Tenant, clock: FakeClock) -> None:
        self.plane = plane
        self.tenant = tenant
        self.clock = clock
        self.fleet = fleet_pb2_grpc.FleetServiceStub(plane.channel)
        self.agents = agent_pb2_grpc.AgentServiceStub(plane.channel)
        self.metadata: Metadata = tenant.metadata

    async def prices(self) -> None:
        """Have prices of three pools and of on-demand, as of now."""
        now = self.clock.now()
        async with self.plane.db.connection(ALL_TENANTS) as conn:
            for zone, price in zip(ZONES, SPOT, strict=True):
                await conn.execute(_PUT_POOL, f"{TYPE}.{zone}", TYPE, REGION, zone, price, now)
            await conn.execute(_PUT_ON_DEMAND, REGION, TYPE, ON_DEMAND, now)

    async def start(self, instance_id: str = "i-old", name: str = "web", **more: Any) -> str:
        """Register an instance in the first pool; its agent's id."""
        fields = {"instance_type": TYPE, "region": REGION, "az": ZONES[0], "mode": "spot"} | more
        answer = await self.agents.Register(
            agent_pb2.RegisterRequest(logical_agent_id=name, instance_id=instance_id, **fields),
            metadata=self.metadata,
        )
        return str(answer.agent_id)

    async def force(
        self, instance_id: str = "i-old", **fields: Any
    ) -> fleet_pb2.ForceSwitchResponse:
        """Order a switch."""
        request = fleet_pb2.ForceSwitchRequest(instance_id=instance_id, **fields)
        answer: fleet_pb2.ForceSwitchResponse = await self.fleet.ForceSwitch(
            request, metadata=self.metadata
        )
        return answer

    async def lease(self, agent_id: str, instance_id: str | None = None) -> Any:
        """Poll for a command; None when nothing waits."""
        answer = await self.agents.LeaseCommands(
            agent_pb2.LeaseCommandsRequest(agent_id=agent_id, instance_id=instance_id),
            metadata=self.metadata,
        )
        return answer.commands[0] if answer.commands else None

    async def done(self, agent_id: str, command_id: str, **fields: Any) -> None:
        """Complete a command."""
        await self.agents.CompleteCommand(
            agent_pb2.CompleteCommandRequest(agent_id=agent_id, command_id=command_id, **fields),
            metadata=self.metadata,
        )

    async def report(
        self, agent_id: str, old: str | None = "i-old", new: str | None = "i-new", **fields: Any
    ) -> str:
        """Report a switch to the second pool; its id."""
        ends: dict[str, Any] = {}
        if old is not None:
            ends["old_instance"] = end(old, ZONES[0])
        if new is not None:
            ends["new_instance"] = end(new, ZONES[1])
        answer = await self.fleet.ReportSwitch(
            fleet_pb2.ReportSwitchRequest(agent_id=agent_id, **ends | fields),
            metadata=self.metadata,
        )
        return str(answer.switch_id)

    async def doomed(self, agent_id: str, metadata: Metadata | None = None) -> Any:
        """What the agent is to end."""
        return await self.fleet.ListInstancesToTerminate(
            fleet_pb2.ListInstancesToTerminateRequest(agent_id=agent_id),
            metadata=metadata or self.metadata,
        )

    async def ended(self, agent_id: str, instance_id: str, **fields: Any) -> None:
        """Report that an instance is gone, or could not be ended."""
        fields = {"success": True} | fields
        await self.fleet.ReportInstanceTermination(
            fleet_pb2.ReportInstanceTerminationRequest(
                agent_id=agent_id, instance_id=instance_id, **fields
            ),
            metadata=self.metadata,
        )

    async def configure(self, agent_id: str, **fields: Any) -> None:
        """Change the agent's configuration."""
        await self.agents.UpdateAgentConfig(
            agent_pb2.UpdateAgentConfigRequest(agent_id=agent_id, **fields), metadata=self.metadata
        )

    async def instances(self) -> dict[str, str]:
        """States of the tenant's instances by id."""
        query = "SELECT id, status FROM instances WHERE tenant_id = $1"
        async with self.plane.db.connection(ALL_TENANTS) as conn:
            rows = await conn.fetch(query, UUID(self.tenant.id))
        return {row["id"]: row["status"] for row in rows}

    async def switches(self) -> list[Any]:
        """The tenant's switches, oldest first."""
        async with self.plane.db.connection(ALL_TENANTS) as conn:
            return list(await conn.fetch(_GET_SWITCHES, UUID(self.tenant.id)))

    async def told(self, *types: str) -> list[dict[str, Any]]:
        """Events of some types, oldest first."""
        query = """
            SELECT data FROM outbox_events
             WHERE tenant_id = $1 AND event_type = ANY($2) ORDER BY seq
        """
        async with self.plane.db.connection(ALL_TENANTS) as conn:
            rows = await conn.fetch(query, UUID(self.tenant.id), list(types))
        return [row["data"] for row in rows]


def end(instance_id: str, zone: str, mode: str = "spot") -> fleet_pb2.SwitchedInstance:
    """One end of a switch, in a zone's pool."""
    return fleet_pb2.SwitchedInstance(
        instance_id=instance_id,
        instance_type=TYPE,
        region=REGION,
        az=zone,
        mode=mode,
        pool_id=f"{TYPE}.{zone}" if mode == "spot" else None,
    )


def at(instant: datetime) -> Timestamp:
    """An instant as a message."""
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
