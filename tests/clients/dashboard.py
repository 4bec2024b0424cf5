"""An operator's actions and views, through the routes of dashboards."""

from __future__ import annotations

from typing import Any

from tests.clients.cloud import Cloud
from tests.legacy.field import ADMIN, Field


class Dashboard:
    """One tenant's pages, beside the cloud with the actual machines."""

    def __init__(self, field: Field, cloud: Cloud) -> None:
        self.field = field
        self.cloud = cloud

    async def instances(self) -> list[dict[str, Any]]:
        """The tenant's instances."""
        return await self._tenant("instances")

    async def states(self) -> dict[str, str]:
        """State by instance; at most one serves."""
        found = {i["id"]: i["instanceStatus"] for i in await self.instances()}
        assert list(found.values()).count("running_primary") <= 1
        return found

    async def primary(self) -> str | None:
        """Return the primary."""
        states = await self.states()
        return next((i for i, state in states.items() if state == "running_primary"), None)

    async def sound(self, ended: set[str] | None = None) -> str:
        """Check that one machine is primary and runs, and only those named were terminated.

        Returns:
            The primary.
        """
        states, running = await self.states(), self.cloud.running()
        primary = await self.primary()
        assert primary in running, states
        assert self.cloud.machines.keys() - running == (ended or set()), states
        wrong = {i for i, state in states.items() if state == "terminated" and i in running}
        assert not wrong, f"called terminated, and run: {wrong}"
        return primary

    async def agents(self) -> list[dict[str, Any]]:
        """Agents that are not deleted."""
        return await self._tenant("agents")

    async def agent_shown(self) -> dict[str, Any]:
        """Return the only agent."""
        (found,) = await self.agents()
        return found

    async def replicas(self) -> list[dict[str, Any]]:
        """Live replicas."""
        return await self._tenant("replicas")

    async def switches(self) -> list[dict[str, Any]]:
        """Return the switches, newest first."""
        return await self._tenant("switch-history")

    async def logs(self, instance_id: str) -> list[dict[str, Any]]:
        """Return the log of an instance."""
        path = f"/api/client/instances/{instance_id}/logs"
        found: list[dict[str, Any]] = await self.field.get(path)
        return found

    async def messages(self) -> list[str]:
        """Return the operator's notifications."""
        return [reply["message"] for reply in await self.field.get("/api/notifications?limit=100")]

    async def emergencies(self) -> list[dict[str, Any]]:
        """Return the tenant's emergencies, newest first, as administrators see them."""
        reported = await self.field.get("/api/admin/emergency-events", by=ADMIN)
        return [e for e in reported["events"] if e["client_id"] == self.field.tenant.id]

    async def configure(self, agent_id: str, **members: Any) -> dict[str, Any]:
        """Set all four members of the configuration page at once."""
        body = {
            "autoSwitchEnabled": False,
            "manualReplicaEnabled": False,
            "autoTerminateEnabled": True,
            "terminateWaitMinutes": 5,
        }
        path = f"/api/client/agents/{agent_id}/config"
        reply: dict[str, Any] = await self.field.post(path, body | members)
        return reply

    async def force(self, instance_id: str, pool_id: str | None = None) -> dict[str, Any]:
        """Request a switch to a pool, or to on-demand."""
        path = f"/api/client/instances/{instance_id}/force-switch"
        body = {"target": "pool", "pool_id": pool_id} if pool_id else {"target": "ondemand"}
        reply: dict[str, Any] = await self.field.post(path, body)
        return reply

    async def delete(self, agent_id: str) -> dict[str, Any]:
        """Delete an agent."""
        reply: dict[str, Any] = await self.field.delete(f"/api/client/agents/{agent_id}")
        return reply

    async def _tenant(self, page: str) -> list[dict[str, Any]]:
        path = f"/api/client/{self.field.tenant.id}/{page}"
        found: list[dict[str, Any]] = await self.field.get(path)
        return found
