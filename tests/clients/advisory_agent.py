"""Model of an advisory agent: it requests advice and reports events; its operator acts."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.clients.calls import Calls, Reply
from tests.clients.cloud import ON_DEMAND, REGION, TYPE, Cloud, Machine, pool


class AdvisoryAgent:
    """Creates one request id at its start, and sends it with every later call."""

    def __init__(self, token: str, cloud: Cloud, machine: Machine, name: str) -> None:
        self.machine = machine
        self.agent_id = ""
        headers = {"Authorization": f"Bearer {token}", "X-Request-ID": str(uuid4())}
        self.calls = Calls(cloud.http(machine), headers)
        self._cloud = cloud
        self._name = name

    async def start(self) -> None:
        """Register; again after a restart of the program."""
        body = {
            "logical_agent_id": self._name,
            "instance_id": self.machine.id,
            "instance_type": TYPE,
            "region": REGION,
            "az": self.machine.az,
            "mode": self.machine.mode,
        }
        reply = await self.calls("POST", "/api/agents/register", body)
        self.agent_id = reply.body["agent_id"]

    async def heartbeat(self) -> bool:
        """Send a heartbeat with a status only."""
        return (await self._agent("POST", "heartbeat", {"status": "running"})).ok

    async def ask(self) -> Any:
        """Request a recommendation for the state that this agent sees."""
        body = {
            "spot_pools": [
                {"pool_id": pool(az), "az": az, "price": price}
                for az, price in self._cloud.prices.items()
            ],
            "ondemand_price": ON_DEMAND,
            "current_az": self.machine.az,
        }
        return (await self._agent("POST", "decide", body)).body

    async def check_notice(self) -> Any:
        """Report a notice as an urgent recommendation."""
        if self.machine.notice is None:
            return None
        body = {
            "instance_id": self.machine.id,
            "notice_time": self.machine.notice.isoformat(),
            "immediate": True,
        }
        return (await self._agent("POST", "rebalance-recommendation", body)).body

    async def post_mortem(self) -> Any:
        """Report that its machine is terminated."""
        body = {
            "cloud_instance_id": self.machine.id,
            "termination_reason": "spot interruption",
        }
        return (await self._agent("POST", "termination-report", body)).body

    async def emergency(self) -> Any:
        """Return the current emergency."""
        return (await self._agent("GET", "emergency-status")).body

    async def _agent(self, method: str, path: str, body: Any = None) -> Reply:
        return await self.calls(method, f"/api/agents/{self.agent_id}/{path}", body)
