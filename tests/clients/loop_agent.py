"""Model of a loop agent: its calls, their order, and its reaction to responses.

It uses only the server's routes. Each loop is a method that does one pass; a test calls it after
each
period.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aiohttp import ClientError, ClientTimeout

from tests.clients.cloud import ON_DEMAND, REGION, TYPE, Cloud, Machine, pool

TIMEOUT = ClientTimeout(total=30)


class LoopAgent:
    """The program on one machine; every machine that boots its image runs it."""

    def __init__(self, token: str, cloud: Cloud, machine: Machine, name: str) -> None:
        self.machine = machine
        self.agent_id = ""
        self.config: dict[str, Any] = {}
        # False after its goodbye, or after it was replaced.
        self.alive = True
        self.enabled = True
        self._http = cloud.http(machine)
        self._token = token
        self._cloud = cloud
        self._name = name
        self._told_notice = False
        self._told_rebalance = False
        self._launched: dict[str, Machine] = {}
        # Agents that boot on machines this one launched.
        self.children: list[LoopAgent] = []

    async def start(self) -> None:
        """The first second: register, then a pass of every loop but the checks."""
        answer = await self._call(
            "POST",
            "/api/agents/register",
            {
                "client_token": self._token,
                "logical_agent_id": self._name,
                "instance_id": self.machine.id,
                "instance_type": TYPE,
                "region": REGION,
                "az": self.machine.az,
                "hostname": f"ip-{self.machine.address.replace('.', '-')}",
                "ami_id": "ami-0abc",
                "agent_version": "4.0.2",
                "mode": self.machine.mode,
                "private_ip": self.machine.address,
                "public_ip": None,
                "kernel": "5.10",
            },
        )
        if answer is None or "agent_id" not in answer:
            self.alive = False  # it exits
            return
        self.agent_id = answer["agent_id"]
        self.enabled = answer["config"]["enabled"]
        await self.read_config()
        await self.commands()
        await self.replicas()
        await self.replica_terminations()
        await self.heartbeat()
        await self.report_prices()

    async def heartbeat(self) -> bool:
        """Send a heartbeat, every 30 s; only the presence of a response matters."""
        status = "online" if self.enabled else "disabled"
        body = {"status": status, "monitored_instances": [self.machine.id]}
        return await self._agent("POST", "heartbeat", body) is not None

    async def read_config(self) -> None:
        """Every 60 s."""
        answer = await self._agent("GET", "config")
        if answer is not None:
            self.config = answer
            self.enabled = answer["enabled"]

    async def commands(self) -> None:
        """Poll commands, every 15 s, unless disabled; a null for a number would end the pass."""
        if not self.enabled:
            return
        answer = await self._agent("GET", "pending-commands")
        waiting = answer if isinstance(answer, list) else (answer or {}).get("commands", [])
        for command in waiting:
            if command["command_type"] == "create_replica":
                raise AssertionError("an agent that polls for replicas is not sent them")
            await self._switch(command)

    async def _switch(self, command: dict[str, Any]) -> None:
        trigger = "manual" if command["priority"] >= 50 else "model"
        wait = command["terminate_wait_seconds"] + 0
        mode = command["target_mode"]
        if not mode:
            return
        old, started = self.machine, self._now()
        az = command["target_pool_id"].rpartition(".")[2] if mode == "spot" else old.az
        new = self._cloud.launch(az, mode)
        launched = self._now()
        await self._boot(new)
        ready = self._now()
        if wait > 0:
            self._cloud.terminate(old.id)
        report = {
            "old_instance": old.describe(),
            "new_instance": new.describe(),
            "snapshot": {"used": True},
            "prices": {
                "on_demand": ON_DEMAND,
                "old_spot": self._spot(old),
                "new_spot": self._spot(new),
            },
            "timing": {
                "switch_initiated_at": started,
                "new_instance_launched_at": launched,
                "new_instance_ready_at": ready,
                "traffic_switched_at": ready,
                "old_instance_terminated_at": self._now() if wait > 0 else None,
            },
            "trigger": trigger,
        }
        await self._agent("POST", "switch-report", report)
        await self._executed(command["id"])
        if wait > 0:
            await self.goodbye()

    async def _executed(self, command_id: str) -> None:
        body = {"success": True, "message": "done"}
        await self._agent("POST", f"commands/{command_id}/executed", body)

    def _spot(self, machine: Machine) -> float | None:
        return self._cloud.prices[machine.az] if machine.mode == "spot" else None

    async def _boot(self, machine: Machine) -> None:
        child = type(self)(self._token, self._cloud, machine, self._name)
        self.children.append(child)
        await child.start()

    async def goodbye(self) -> None:
        """Send a goodbye, which names no instance."""
        await self._agent("POST", "heartbeat", {"status": "offline", "monitored_instances": []})
        self.alive = False

    async def replicas(self) -> None:
        """Launch, bind and report requested replicas, every 30 s."""
        answer = await self._agent("GET", "replicas?status=launching")
        for replica in (answer or {}).get("replicas", []):
            if replica["id"] in self._launched:
                continue
            az = replica.get("az") or (replica.get("pool") or {}).get("az")
            if not az or not (replica.get("pool_id") or replica.get("pool")):
                continue
            machine = self._cloud.launch(az, "spot")
            self._launched[replica["id"]] = machine
            body = {"instance_id": machine.id, "status": "syncing"}
            await self._agent("PUT", f"replicas/{replica['id']}", body)
            await self._boot(machine)
            ready = {"status": "ready", "sync_completed_at": self._now()}
            await self._agent("POST", f"replicas/{replica['id']}/status", ready)

    async def replica_terminations(self) -> None:
        """Terminate superseded replicas and report it, every 30 s."""
        answer = await self._agent("GET", "replicas?status=terminated")
        for replica in (answer or {}).get("replicas", []):
            if replica["instance_id"] not in self._cloud.machines:
                raise AssertionError("a placeholder is never listed for its end")
            self._cloud.terminate(replica["instance_id"])
            reply = {"status": "terminated", "terminated_at": self._now(), "is_active": False}
            await self._agent("POST", f"replicas/{replica['id']}/status", reply)

    async def report_prices(self) -> None:
        """Every 300 s."""
        spots = [
            {"pool_id": pool(az), "instance_type": TYPE, "az": az, "price": price}
            for az, price in self._cloud.prices.items()
        ]
        cheapest = min(spots, key=lambda spot: float(str(spot["price"])))
        own = self._spot(self.machine)
        await self._agent(
            "POST",
            "pricing-report",
            {
                "instance": {
                    "instance_id": self.machine.id,
                    "instance_type": TYPE,
                    "region": REGION,
                    "az": self.machine.az,
                    "mode": self.machine.mode,
                    "pool_id": self.machine.pool_id,
                },
                "pricing": {
                    "on_demand_price": ON_DEMAND,
                    "current_spot_price": own,
                    "cheapest_pool": {"pool_id": cheapest["pool_id"], "price": cheapest["price"]},
                    "spot_pools": spots,
                    "collected_at": self._now(),
                },
            },
        )

    async def check_termination(self) -> Any:
        """Check for a notice, every 5 s; report it once, for a replica, then for itself."""
        notice = self.machine.notice
        if notice is None or self._told_notice:
            return None
        self._told_notice = True
        at = notice.isoformat()
        replica = await self._agent(
            "POST",
            "create-emergency-replica",
            {"signal_type": "termination-notice", "termination_time": at},
        )
        answer = await self._agent(
            "POST",
            "termination-imminent",
            {
                "instance_id": self.machine.id,
                "termination_time": at,
                "detected_at": self._now(),
                "replica_id": (replica or {}).get("replica_id"),
            },
        )
        if answer and answer["success"]:
            self.alive = False  # all loops stop within a second
        return answer

    async def check_rebalance(self) -> Any:
        """Check for a recommendation, every 30 s; it is reported once until the signal clears."""
        if not self.machine.rebalance:
            self._told_rebalance = False
        if not self.machine.rebalance or self._told_rebalance:
            return None
        self._told_rebalance = True
        await self._agent(
            "POST", "create-emergency-replica", {"signal_type": "rebalance-recommendation"}
        )
        return await self._agent(
            "POST",
            "rebalance-recommendation",
            {"instance_id": self.machine.id, "detected_at": self._now()},
        )

    async def clean_up(self) -> list[str]:
        """Terminate the listed instances every 60 s; report images and snapshots.

        Returns:
            Ids of the instances that it terminated.
        """
        report = {"type": "snapshots", "deleted": [], "failed": [], "error": "no permission"}
        await self._agent("POST", "cleanup-report", {"timestamp": self._now(), "snapshots": report})
        answer = await self._agent("GET", "instances-to-terminate") or {}
        if not answer.get("auto_terminate_enabled"):
            return []
        ended = []
        for instance in answer["instances"]:
            assert instance["seconds_waiting"] >= 0
            self._cloud.terminate(instance["instance_id"])
            ended.append(instance["instance_id"])
            body = {"instance_id": instance["instance_id"], "success": True}
            await self._agent("POST", "termination-report", body)
        return ended

    def _now(self) -> str:
        now: datetime = self._cloud.now()
        return now.isoformat()

    async def _agent(self, method: str, path: str, body: Any = None) -> Any:
        return await self._call(method, f"/api/agents/{self.agent_id}/{path}", body)

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        """Call a route, without a retry; anything but JSON with status 2xx is no response."""
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
        }
        try:
            async with self._http.request(
                method, path, json=body, headers=headers, timeout=TIMEOUT
            ) as answer:
                if answer.status // 100 != 2:
                    return None
                return await answer.json()
        except (ClientError, TimeoutError, ValueError):
            return None
