"""Model of an action agent: it executes single actions, and its machine's id is its name."""

from __future__ import annotations

from typing import Any, Final

from tests.clients.calls import Calls
from tests.clients.cloud import ON_DEMAND, REGION, TYPE, Cloud, Machine, pool

# Its own limit of the wait after failures, in seconds.
PATIENCE: Final = 300


class ActionAgent:
    """The program on one machine; every machine registers as an agent of its own."""

    def __init__(self, token: str, cloud: Cloud, machine: Machine) -> None:
        self.machine = machine
        self.agent_id = ""
        self.config: dict[str, Any] = {}
        # Seconds until its next call; it doubles with every failure.
        self.wait_seconds = 1
        self.alive = True
        self.calls = Calls(cloud.http(machine), {"Authorization": f"Bearer {token}"})
        # Agents on machines that this one launched.
        self.children: list[ActionAgent] = []
        self._token = token
        self._cloud = cloud
        self._connected = False

    async def start(self) -> None:
        """Register and send a heartbeat; prices follow a minute later."""
        body = {
            "logical_agent_id": self.machine.id,
            "instance_id": self.machine.id,
            "instance_type": TYPE,
            "region": REGION,
            "az": self.machine.az,
            "mode": self.machine.mode,
        }
        answer = await self._call("POST", "/api/agents/register", body)
        if answer is None:
            return
        self.agent_id = answer["agent_id"]
        await self.heartbeat()

    async def heartbeat(self) -> bool:
        """Report all visible machines, and apply the returned configuration."""
        seen: list[dict[str, Any]] = [
            {
                "instance_id": machine.id,
                "state": "running" if machine.running else "terminated",
                "az": machine.az,
                "instance_type": TYPE,
                "pool": machine.pool_id,
                "tags": {},
                "private_ip": machine.address,
                "public_ip": None,
            }
            for machine in self._cloud.machines.values()
        ]
        body = {
            "status": "online",
            "instance_id": self.machine.id,
            "mode": self.machine.mode,
            "az": self.machine.az,
            "timestamp": self._cloud.now().isoformat(),
            "inventory_snapshot": {"instances": seen, "count": len(seen)},
            "health_metrics": {"uptime": 60, "cpu_percent": 3.5, "memory_percent": 40},
            "reconnect": not self._connected,
        }
        answer = await self._agent("POST", "heartbeat", body)
        self._connected = answer is not None
        if answer is not None:
            self.config = answer["config"]
        return self._connected

    async def report_prices(self) -> None:
        """Spot and on-demand prices in one array."""
        now = self._cloud.now().isoformat()
        spots = [
            {
                "instance_type": TYPE,
                "az": az,
                "pool_id": pool(az),
                "spot_price": price,
                "timestamp": now,
            }
            for az, price in self._cloud.prices.items()
        ]
        listed = {"instance_type": TYPE, "price_type": "ondemand", "price": ON_DEMAND}
        body = {"pricing_data_array": [*spots, {**listed, "timestamp": now}]}
        await self._agent("POST", "pricing-report", body)

    async def actions(self) -> list[str]:
        """Execute the waiting actions and return their types."""
        answer = await self._agent("GET", "commands/pending")
        ran = []
        for action in (answer or {}).get("commands", []):
            await getattr(self, f"_{action['command_type'].lower()}")(action, action["params"])
            ran.append(action["command_type"])
        return ran

    async def _launch_instance(self, action: dict[str, Any], params: dict[str, Any]) -> None:
        mode = "spot" if "spot" in params["target_pool"] else "ondemand"
        machine = self._cloud.launch(params["az"], mode)
        child = ActionAgent(self._token, self._cloud, machine)
        self.children.append(child)
        await child.start()
        confirmed = {
            "temp_instance_id": action["instance_id"],
            "instance_id": machine.id,
            "instance_type": params["instance_type"],
            "az": machine.az,
            "request_id": action["request_id"],
            "confirmed_at": self._cloud.now().isoformat(),
        }
        await self._agent("POST", "instance-launched", confirmed)
        await self._done(action, cloud_instance_id=machine.id)

    async def _terminate_instance(self, action: dict[str, Any], params: dict[str, Any]) -> None:
        self._cloud.terminate(params["instance_id"])
        confirmed = {
            "instance_id": params["instance_id"],
            "request_id": action["request_id"],
            "confirmed_at": self._cloud.now().isoformat(),
        }
        await self._agent("POST", "instance-terminated", confirmed)
        await self._done(action, cloud_instance_id=params["instance_id"])

    async def _promote_replica_to_primary(
        self, action: dict[str, Any], params: dict[str, Any]
    ) -> None:
        assert self._cloud.machines[params["replica_instance_id"]].running
        await self._done(action, cloud_instance_id=params["replica_instance_id"])

    async def _apply_config(self, action: dict[str, Any], params: dict[str, Any]) -> None:
        assert params["config_updates"]
        await self._done(action)

    async def _self_destruct(self, action: dict[str, Any], _params: dict[str, Any]) -> None:
        await self._done(action)
        await self.shutdown()

    async def _done(self, action: dict[str, Any], **more: Any) -> None:
        body = {
            "request_id": action["request_id"],
            "agent_id": self.agent_id,
            "result": "SUCCESS",
            "metadata": {},
            **more,
        }
        await self._agent("POST", "action-result", body)

    async def shutdown(self) -> None:
        """Send a goodbye by name."""
        body = {
            "cloud_instance_id": self.machine.id,
            "timestamp": self._cloud.now().isoformat(),
            "metadata": {},
        }
        await self._agent("POST", "shutdown", body)
        self.alive = False

    async def check_rebalance(self) -> Any:
        """Report a rebalance recommendation and return the response."""
        body = {
            "cloud_instance_id": self.machine.id,
            "notice_time": self._cloud.now().isoformat(),
            "notice_type": "REBALANCE",
        }
        return await self._agent("POST", "rebalance-recommendation", body)

    async def check_termination(self) -> Any:
        """Report a notice in the form of a termination report."""
        if self.machine.notice is None:
            return None
        body = {
            "cloud_instance_id": self.machine.id,
            "notice_type": "TERMINATION",
            "termination_time": self.machine.notice.isoformat(),
        }
        return await self._agent("POST", "termination-report", body)

    async def _agent(self, method: str, path: str, body: Any = None) -> Any:
        return await self._call(method, f"/api/agents/{self.agent_id}/{path}", body)

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        """Call a route; an empty object is a failure too, and every failure doubles the wait."""
        reply = await self.calls(method, path, body)
        if reply.ok and reply.body:
            self.wait_seconds = 1
            return reply.body
        self.wait_seconds = min(2 * self.wait_seconds, PATIENCE)
        return None
