"""Model of a minimal agent: it sends no name, and compares statuses exactly."""

from __future__ import annotations

from typing import Any

from tests.clients.calls import Calls
from tests.clients.cloud import ON_DEMAND, REGION, TYPE, Cloud, Machine


class MinimalAgent:
    """Its machine is the agent: it has no name of its own, and switches in place."""

    def __init__(self, token: str, cloud: Cloud, machine: Machine) -> None:
        self.machine = machine
        self.agent_id = ""
        self.alive = True
        self.enabled = True
        # Names of the pools of its rescues, for its log.
        self.rescues: list[str] = []
        self.calls = Calls(cloud.http(machine), {"X-Client-Token": token})
        # Machines that it launched, by replica.
        self.replicas: dict[str, Machine] = {}
        self._cloud = cloud

    async def start(self) -> None:
        """Register, beat and report."""
        body = {
            "instance_id": self.machine.id,
            "instance_type": TYPE,
            "region": REGION,
            "availability_zone": self.machine.az,
            "current_mode": self.machine.mode,
            "version": "1.0",
        }
        reply = await self.calls("POST", "/api/agents/register", body)
        if reply.status != 200:
            self.alive = False
            return
        self.agent_id = reply.body["agent_id"]
        await self.heartbeat()
        await self.report_prices()

    async def heartbeat(self) -> bool:
        """Send a heartbeat with its location."""
        body = {
            "status": "online",
            "instance_id": self.machine.id,
            "current_mode": self.machine.mode,
            "current_pool_id": self.machine.pool_id,
        }
        reply = await self._agent("POST", "heartbeat", body)
        if reply.status == 200:
            self.enabled = reply.body["config"]["enabled"]
        return bool(reply.status == 200)

    async def goodbye(self) -> None:
        """Send a goodbye without a name."""
        await self._agent("POST", "heartbeat", {"status": "offline"})
        self.alive = False

    async def report_prices(self) -> bool:
        """Report prices, flat and one report per zone."""
        fine = True
        for az, price in self._cloud.prices.items():
            body = {
                "instance_type": TYPE,
                "region": REGION,
                "az": az,
                "spot_price": price,
                "ondemand_price": ON_DEMAND,
                "timestamp": self._cloud.now().isoformat(),
            }
            fine &= (await self._agent("POST", "pricing-report", body)).status == 200
        return fine

    async def commands(self) -> list[str]:
        """Execute the waiting commands and return their types."""
        reply = await self._agent("GET", "pending-commands")
        ran = []
        for command in reply.body if reply.status == 200 else []:
            await getattr(self, f"_{command['command_type']}")(command)
            reply = await self._agent("POST", f"commands/{command['id']}/executed", {})
            assert reply.status == 200
            ran.append(command["command_type"])
        return ran

    async def _switch(self, command: dict[str, Any]) -> None:
        """Switch in place: the same machine with another market type."""
        self.machine.mode = command["target_mode"]
        if self.machine.mode == "spot":
            self.machine.az = command["target_pool_id"].rpartition(".")[2]

    async def _create_replica(self, command: dict[str, Any]) -> None:
        """Launch first, then report."""
        machine = self._cloud.launch(command["target_pool_id"].rpartition(".")[2], "spot")
        body = {
            "instance_id": machine.id,
            "replica_type": "manual",
            "parent_instance_id": self.machine.id,
            "pool_id": command["target_pool_id"],
            "status": "launching",
        }
        made = await self._agent("POST", "replicas", body)
        if made.status != 201:
            self._cloud.terminate(machine.id)  # otherwise the machine would be unknown
            return
        replica_id = made.body["replica_id"]
        self.replicas[replica_id] = machine
        await self._agent("POST", f"replicas/{replica_id}/status", {"status": "ready"})

    async def _terminate_replica(self, command: dict[str, Any]) -> None:
        replica_id = command["replica_id"]
        self._cloud.terminate(self.replicas[replica_id].id)
        await self._agent("POST", f"replicas/{replica_id}/status", {"status": "terminated"})

    async def check_termination(self) -> Any:
        """On a notice, request a rescue, then report the termination; return the response."""
        if self.machine.notice is None:
            return None
        at = self.machine.notice.isoformat()
        rescue = await self._agent(
            "POST", "create-emergency-replica", {"termination_time": at, "urgency": "critical"}
        )
        if rescue.status == 201:
            self.rescues.append(rescue.body["pool"]["name"])
        reported = await self._agent("POST", "termination-imminent", {"time": at})
        return reported.body if reported.status == 200 else None

    async def check_rebalance(self) -> Any:
        """Report a recommendation and return the response."""
        rescue = await self._agent(
            "POST", "create-emergency-replica", {"signal_type": "rebalance-recommendation"}
        )
        if rescue.status == 201:
            self.rescues.append(rescue.body["pool"]["name"])
        return rescue.body

    async def uninstall(self) -> Any:
        """Delete itself."""
        body = {"instance_id": self.machine.id, "reason": "uninstalled"}
        return (await self.calls("POST", "/api/agents/uninstall", body)).body

    async def _agent(self, method: str, path: str, body: Any = None) -> Any:
        return await self.calls(method, f"/api/agents/{self.agent_id}/{path}", body)
