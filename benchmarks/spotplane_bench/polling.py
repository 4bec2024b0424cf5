"""Agents and dashboards of the field: REST through the bridge, at the periods that they have."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from aiohttp import ClientSession, DummyCookieJar, TCPConnector

from spotplane_bench.agents import INSTANCE_TYPE, REGION, ZONES, few_at_a_time

# What an agent calls, and how often, in seconds.
HEARTBEAT, COMMANDS, REPLICAS, CONFIG, CLEANUP, PRICES = 30.0, 15.0, 30.0, 60.0, 60.0, 300.0
PATIENCE_SECONDS: Final = 30.0


class Caller:
    """Calls routes with one token and keeps what each took, by the route's name."""

    def __init__(self, http: ClientSession, token: str) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)
        self.failed: dict[str, int] = defaultdict(int)
        self._http = http
        self._headers = {"Authorization": f"Bearer {token}"}

    async def call(self, name: str, method: str, path: str, body: Any = None) -> Any:
        """Call, time and read; None when the answer is no success."""
        started = time.perf_counter()
        async with self._http.request(method, path, json=body, headers=self._headers) as answer:
            said = await answer.json()
            self.taken[name].append(time.perf_counter() - started)
            if answer.status // 100 == 2:
                return said
        self.failed[f"{name} {answer.status}"] += 1
        return None


class PollingAgent:
    """One agent's loops; each begins at a moment of its own."""

    def __init__(self, caller: Caller, name: str) -> None:
        self._caller = caller
        self._name = name
        self._instance_id = f"i-{uuid4().hex[:17]}"
        self._zone = ZONES[0]
        self.agent_id = ""

    async def register(self) -> None:
        """Make the agent known."""
        body = {
            "logical_agent_id": self._name,
            "instance_id": self._instance_id,
            "instance_type": INSTANCE_TYPE,
            "region": REGION,
            "az": self._zone,
            "mode": "spot",
            "agent_version": "4.0.2",
            "public_ip": None,
        }
        said = await self._caller.call("POST register", "POST", "/api/agents/register", body)
        self.agent_id = said["agent_id"]

    def loops(self) -> list[Callable[[], Awaitable[None]]]:
        """The loops, each without an end."""
        return [
            self._every(HEARTBEAT, self.heartbeat),
            self._every(COMMANDS, self.commands),
            self._every(REPLICAS, self.replicas),
            self._every(REPLICAS, self.terminations),
            self._every(CONFIG, self.config),
            self._every(CLEANUP, self.clean_up),
            self._every(PRICES, self.prices),
        ]

    def _every(
        self, seconds: float, work: Callable[[], Awaitable[Any]]
    ) -> Callable[[], Awaitable[None]]:
        async def loop() -> None:
            await asyncio.sleep(random.uniform(0, seconds))
            while True:
                started = time.perf_counter()
                await work()
                await asyncio.sleep(max(0.0, seconds - (time.perf_counter() - started)))

        return loop

    async def heartbeat(self) -> None:
        """Say that it lives."""
        body = {"status": "online", "monitored_instances": [self._instance_id]}
        await self._agent("POST heartbeat", "POST", "heartbeat", body)

    async def commands(self) -> Any:
        """Ask for a command."""
        return await self._agent("GET pending-commands", "GET", "pending-commands")

    async def replicas(self) -> Any:
        """Ask for what to launch."""
        path = "replicas?status=launching"
        return await self._agent("GET replicas launching", "GET", path)

    async def terminations(self) -> None:
        """Ask for what to end."""
        await self._agent("GET replicas terminated", "GET", "replicas?status=terminated")

    async def config(self) -> None:
        """Read the configuration."""
        await self._agent("GET config", "GET", "config")

    async def clean_up(self) -> None:
        """Tell of images, ask for zombies."""
        report = {"type": "snapshots", "deleted": [], "failed": []}
        body = {"timestamp": _now(), "snapshots": report}
        await self._agent("POST cleanup-report", "POST", "cleanup-report", body)
        await self._agent("GET instances-to-terminate", "GET", "instances-to-terminate")

    async def prices(self) -> None:
        """Tell the prices of its pools."""
        pools = [
            {
                "pool_id": f"{INSTANCE_TYPE}.{zone}",
                "instance_type": INSTANCE_TYPE,
                "az": zone,
                "price": round(0.3 + random.random() / 100, 4),
            }
            for zone in ZONES
        ]
        body = {
            "instance": self._describe(self._instance_id, self._zone),
            "pricing": {
                "on_demand_price": 1.006,
                "current_spot_price": pools[0]["price"],
                "spot_pools": pools,
                "collected_at": _now(),
            },
        }
        await self._agent("POST pricing-report", "POST", "pricing-report", body)

    async def live(self) -> None:
        """What happens rarely: a forced switch, a replica, a rebalance, a notice; the rest once."""
        for name in (
            "replica-config",
            "switch-recommendation",
            "emergency-status",
            "statistics",
            "commands/pending",
        ):
            await self._agent(f"GET {name}", "GET", name)
        await self._agent("GET agent", "GET", "")
        await self._decide()
        await self._switch()
        await self._stand_by()
        signal = {"signal_type": "rebalance-recommendation"}
        await self._agent(
            "POST create-emergency-replica", "POST", "create-emergency-replica", signal
        )
        rebalance = {"instance_id": self._instance_id, "detected_at": _now()}
        await self._agent(
            "POST rebalance-recommendation", "POST", "rebalance-recommendation", rebalance
        )
        notice = {"instance_id": self._instance_id, "termination_time": _now(120)}
        await self._agent("POST termination-imminent", "POST", "termination-imminent", notice)

    async def _decide(self) -> None:
        body = {
            "instance": {
                "instance_id": self._instance_id,
                "instance_type": INSTANCE_TYPE,
                "region": REGION,
                "current_mode": "spot",
                "current_pool_id": f"{INSTANCE_TYPE}.{self._zone}",
            },
            "pricing": {"on_demand_price": 1.006, "current_spot_price": 0.3, "spot_pools": []},
        }
        await self._agent("POST decide", "POST", "decide", body)

    async def _switch(self) -> None:
        path = f"/api/client/instances/{self._instance_id}/force-switch"
        target = {"target": "pool", "pool_id": f"{INSTANCE_TYPE}.{ZONES[1]}"}
        await self._caller.call("POST force-switch", "POST", path, target)
        waiting = await self.commands()
        if not waiting:
            raise RuntimeError("a forced switch was not delivered")
        old, new = self._instance_id, f"i-{uuid4().hex[:17]}"
        report = {
            "old_instance": self._describe(old, self._zone),
            "new_instance": self._describe(new, ZONES[1]),
            "prices": {"on_demand": 1.006, "old_spot": 0.3, "new_spot": 0.3},
            "timing": {
                "switch_initiated_at": _now(),
                "new_instance_ready_at": _now(),
                "traffic_switched_at": _now(),
                "old_instance_terminated_at": _now(),
            },
        }
        await self._agent("POST switch-report", "POST", "switch-report", report)
        executed = f"commands/{waiting[0]['id']}/executed"
        await self._agent("POST executed", "POST", executed, {"success": True})
        self._instance_id, self._zone = new, ZONES[1]

    async def _stand_by(self) -> None:
        path = f"/api/client/agents/{self.agent_id}/config"
        modes = {"autoSwitchEnabled": False, "manualReplicaEnabled": True}
        await self._caller.call("POST config", "POST", path, modes)
        async with asyncio.timeout(PATIENCE_SECONDS):
            # A polling agent polls.
            while not (listed := (await self.replicas())["replicas"]):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        replica = f"replicas/{listed[0]['id']}"
        bound = {"instance_id": f"i-{uuid4().hex[:17]}", "status": "syncing"}
        await self._agent("PUT replica", "PUT", replica, bound)
        sync = {"sync_status": "syncing", "state_transfer_progress": 50}
        await self._agent("POST sync-status", "POST", f"{replica}/sync-status", sync)
        await self._agent("POST replica status", "POST", f"{replica}/status", {"status": "ready"})
        await self._agent("GET replica", "GET", replica)

    def _describe(self, instance_id: str, zone: str) -> dict[str, str]:
        return {
            "instance_id": instance_id,
            "instance_type": INSTANCE_TYPE,
            "region": REGION,
            "az": zone,
            "mode": "spot",
            "pool_id": f"{INSTANCE_TYPE}.{zone}",
        }

    async def _agent(self, name: str, method: str, path: str, body: Any = None) -> Any:
        at = f"/api/agents/{self.agent_id}/{path}".rstrip("/")
        return await self._caller.call(name, method, at, body)


# What a tenant's dashboard polls, and how often, in seconds.
DASHBOARD: Final[Mapping[str, float]] = {
    "instances": 5.0,
    "agents": 5.0,
    "replicas": 10.0,
    "agents/decisions": 30.0,
    "savings": 60.0,
    "stats/charts": 60.0,
}


def _dashboard(caller: Caller, tenant_id: str) -> list[Callable[[], Awaitable[None]]]:
    def loop_of(name: str, seconds: float) -> Callable[[], Awaitable[None]]:
        async def loop() -> None:
            await asyncio.sleep(random.uniform(0, seconds))
            while True:
                path = f"/api/client/{tenant_id}/{name}"
                await caller.call(f"dashboard {name}", "GET", path)
                await asyncio.sleep(seconds)

        return loop

    return [loop_of(name, seconds) for name, seconds in DASHBOARD.items()]


def hold(
    pipe: Any, log_path: str, target: str, tenants: Sequence[tuple[str, str]], count: int
) -> None:
    """Entry point of a process that holds polling agents and dashboards; see `_hold`."""
    import uvloop

    from spotplane_bench.children import log_to

    log_to(log_path)
    uvloop.run(_hold(pipe, target, tenants, count))


async def _hold(pipe: Any, target: str, tenants: Sequence[tuple[str, str]], count: int) -> None:
    """Register agents, run their loops and five dashboards, then do as told.

    ``watch`` answers what each route took in so many seconds, ``live`` leads so many whole lives,
    one after the other, ``stop`` ends. Every order is answered, when it is done.

    Args:
        pipe: To the parent.
        target: The bridge.
        tenants: Ids and keys; agents are dealt out to them in turn.
        count: Agents.
    """
    async with ClientSession(
        f"http://{target}",
        connector=TCPConnector(limit=0, keepalive_timeout=120),
        cookie_jar=DummyCookieJar(),
    ) as http:
        callers = [Caller(http, key) for _, key in tenants]
        agents = [
            PollingAgent(callers[n % len(callers)], f"poll-{uuid4().hex[:12]}")
            for n in range(count)
        ]
        await few_at_a_time([agent.register for agent in agents])
        loops = [loop for agent in agents for loop in agent.loops()]
        loops += _dashboard(callers[0], tenants[0][0]) * 5
        tasks = [asyncio.ensure_future(loop()) for loop in loops]
        pipe.send({})
        while True:
            order, value = await asyncio.to_thread(pipe.recv)
            answer: Mapping[str, Any] = {}
            if order == "watch":
                answer = await _watch(callers, value)
            elif order == "live":
                await _lives(callers[-1], int(value))
            else:
                break
            pipe.send(answer)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        pipe.send({})


async def _lives(caller: Caller, count: int) -> None:
    for _ in range(count):
        agent = PollingAgent(caller, f"life-{uuid4().hex[:12]}")
        await agent.register()
        await agent.heartbeat()
        await agent.prices()
        await agent.live()


async def _watch(callers: Sequence[Caller], seconds: float) -> Mapping[str, Any]:
    await asyncio.sleep(seconds)
    taken: dict[str, list[float]] = defaultdict(list)
    failed: dict[str, int] = defaultdict(int)
    for caller in callers:
        for name, found in caller.taken.items():
            taken[name] += found
        for name, count in caller.failed.items():
            failed[name] += count
    return {"taken": dict(taken), "failed": dict(failed)}


def _now(ahead: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ahead)).isoformat()
