"""Model of a loop agent of version 2: the same loops, some with other formats."""

from __future__ import annotations

from tests.clients.cloud import ON_DEMAND, REGION, TYPE, pool
from tests.clients.loop_agent import LoopAgent


class SecondAgent(LoopAgent):
    """Differs in heartbeats, price reports and command results."""

    async def heartbeat(self) -> bool:
        """Send a heartbeat with a status and a list, without a disabled flag."""
        body = {"status": "running", "monitored_instances": [self.machine.id]}
        return await self._agent("POST", "heartbeat", body) is not None

    async def _executed(self, command_id: str) -> None:
        body = {"command_id": command_id, "success": True, "message": "done"}
        await self._agent("POST", "mark-command-executed", body)

    async def report_prices(self) -> None:
        """Report prices: the instance in an object, the prices beside it."""
        await self._agent(
            "POST",
            "pricing-report",
            {
                "instance": {
                    "instance_id": self.machine.id,
                    "instance_type": TYPE,
                    "region": REGION,
                    "az": self.machine.az,
                    "current_mode": self.machine.mode,
                    "current_pool_id": self.machine.pool_id,
                },
                "on_demand_price": {"price": ON_DEMAND},
                "spot_pools": [
                    {"pool_id": pool(az), "az": az, "price": price}
                    for az, price in self._cloud.prices.items()
                ],
            },
        )
