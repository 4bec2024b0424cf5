"""Agents with replicas, for tests of the legacy API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.legacy.field import Field
from tests.support.fleet import TYPE, ZONES, Calls
from tests.support.link import Hand

FAR_POOL = f"{TYPE}.{ZONES[1]}"


@dataclass(frozen=True)
class Standby:
    """A polling agent with primary ``i-1``; pools of three zones have prices.

    Attributes:
        field: The client.
        id: Its id.
        calls: gRPC stubs of its operator.
    """

    field: Field
    id: str
    calls: Calls

    @property
    def at(self) -> str:
        """Return its path."""
        return f"/api/agents/{self.id}"

    @property
    def replicas(self) -> str:
        """Return the path of its replicas."""
        return f"{self.at}/replicas"

    async def manual_mode(self, *, on: bool = True) -> None:
        """Enable manual mode of a disabled agent, so that the coordinator creates no replica."""
        await self.calls.configure(self.id, manual_replica_enabled=on, enabled=False)

    async def ask(self, **body: Any) -> Any:
        """Create a replica as a user does, in manual mode."""
        return await self.field.post(self.replicas, body, status=201)

    async def listed(self, status: str = "") -> list[Any]:
        """Return its replicas as a poll lists them."""
        query = f"?status={status}" if status else ""
        response = await self.field.get(self.replicas + query)
        assert response["total"] == len(response["replicas"])
        listed: list[Any] = response["replicas"]
        return listed

    async def bind(self, replica_id: str, instance_id: str = "i-2", **body: Any) -> Any:
        """Bind a replica to an instance."""
        return await self.field.put(
            f"{self.replicas}/{replica_id}", {"instance_id": instance_id, **body}
        )

    async def tell(self, replica_id: str, status: str, **body: Any) -> Any:
        """Post a replica's state."""
        return await self.field.post(
            f"{self.replicas}/{replica_id}/status", {"status": status, **body}
        )

    async def standing(self) -> Any:
        """Return a ready replica on ``i-2`` that a user created."""
        await self.manual_mode()
        made = await self.ask()
        await self.bind(made["replica_id"])
        await self.tell(made["replica_id"], "ready")
        return made["replica_id"]

    async def primary(self) -> str:
        """Return the primary instance."""
        return (await self.calls.agent(self.id)).instance_id


@asynccontextmanager
async def polling(
    field: Field, *, zones: tuple[str, ...] = ZONES, mode: str = "spot"
) -> AsyncIterator[Standby]:
    """Run a polling agent during the block; prices are reported before."""
    hand = Hand(field.plane, field.tenant)
    try:
        if zones:
            _, other = await hand.start("i-prices", name="prices")
            await hand.prices(other, *zones)
        registered = await hand.register("i-1", mode=mode)
        yield Standby(field, registered.agent_id, Calls(field.plane.channel, field.tenant))
    finally:
        await hand.close()
