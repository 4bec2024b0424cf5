"""Runs the stack and its demo, from the lock on the data directory to the last child's end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from spotplane_server.dev import recording, view
from spotplane_server.dev import stack as stacks
from spotplane_server.dev.children import Children, DataDir, StackError
from spotplane_server.dev.demo import DemoTenant, Operator, agents_of
from spotplane_server.dev.event_log import Narrator
from spotplane_server.dev.fleet import ON_DEMAND, Settings
from spotplane_server.dev.stack import Ports, Stack
from spotplane_server.dev.watch import Watch
from spotplane_server.kernel import logs

READY_FILE: Final = "dev.json"
FRAME_SECONDS: Final = 0.25
_TYPES: Final = (*ON_DEMAND, "p3.2xlarge", "p4d.24xlarge", "p5.48xlarge", "a3-highgpu-8g")


@dataclass(frozen=True, slots=True)
class Options:
    """What `spotplane dev` was told; see its help."""

    data_dir: Path
    agents: int
    demo: bool
    plain: bool
    first_notice_seconds: float
    notice_every_seconds: float
    market: Path | None
    market_type: str | None
    market_tick_seconds: float
    port: int
    bridge_port: int
    grpc_port: int


def run(options: Options) -> int:
    """Run until SIGINT or SIGTERM; answer the exit status."""
    logs.configure("WARNING", json=False)
    try:
        if options.market is not None:
            recording.read(options.market)
        return asyncio.run(_Development(options).run())
    except (StackError, recording.BadRecording, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1


class _Development:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._started = time.monotonic()
        self._narrator = Narrator(plain=options.plain or not sys.stdout.isatty())
        self._stop = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        data = DataDir(self._options.data_dir)
        (data.path / READY_FILE).unlink(missing_ok=True)
        left = await asyncio.to_thread(data.pids.end_all)
        if left:
            self._narrator.say(f"ended what a killed run left behind: {', '.join(left)}")
        group = Children(data.pids)
        try:
            await self._until_stopped(self._live(data, group))
        finally:
            (data.path / READY_FILE).unlink(missing_ok=True)
            group.close()
        print(f"stopped; the data stay in {data.path}", flush=True)
        return 0

    async def _until_stopped(self, living: Any) -> None:
        """Run something until it is told to stop, or fails."""
        life = asyncio.create_task(living)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((life, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        life.cancel()
        try:
            await life
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise

    async def _live(self, data: DataDir, group: Children) -> None:
        token = stacks.admin_token(data)
        ports = Ports(self._options.port, self._options.bridge_port, self._options.grpc_port)
        stack = Stack(data, group, ports, token, self._narrator)
        self._narrator.say("starting PostgreSQL, server, bridge and Envoy")
        try:
            await stack.start()
            async with self._demo(stack, group) as (tenants, fleet):
                seconds = self._ready(stack, tenants)
                watch = Watch(stack.grpc, stack.edge, token, tenants, self._narrator)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(watch.run(fleet))
                    if not self._narrator.plain:
                        tasks.create_task(self._show(stack, tenants, watch, seconds))
        finally:
            if not self._narrator.plain:
                print("stopping …", flush=True)
            await stack.stop()

    @asynccontextmanager
    async def _demo(
        self, stack: Stack, group: Children
    ) -> AsyncIterator[tuple[list[DemoTenant], asyncio.StreamReader | None]]:
        """Tenants, and a fleet while the block runs."""
        if not self._options.demo:
            yield [], None
            return
        operator = Operator(stack.grpc, stack.token)
        async with AsyncExitStack() as ending:
            ending.push_async_callback(operator.close)
            tenants = await operator.tenants(stack.data)
            if not stack.new:
                await operator.clear_replicas(tenants)
            agents = agents_of(tenants, self._options.agents)
            fleet = None
            if agents:
                pairs = [(agent.name, agent.tenant.agent_key) for agent in agents]
                settings = self._settings(stack, pairs)
                fleet = await ending.enter_async_context(stacks.fleet(stack.data, group, settings))
                keeping = asyncio.create_task(operator.keep_replicas(agents))
                ending.callback(keeping.cancel)
            yield tenants, fleet

    def _settings(self, stack: Stack, agents: list[tuple[str, str]]) -> dict[str, Any]:
        options = self._options
        disks = stack.data.path / "instances"
        stacks.wipe(disks)
        market = options.market
        kind = options.market_type or (recording.type_in(market.name, _TYPES) if market else None)
        return asdict(
            Settings(
                server=stack.grpc,
                state_dir=str(disks),
                agents=agents,
                first_notice_seconds=options.first_notice_seconds,
                notice_every_seconds=options.notice_every_seconds,
                market=str(market.absolute()) if market else None,
                market_type=kind,
                market_tick_seconds=options.market_tick_seconds,
            )
        )

    def _ready(self, stack: Stack, tenants: list[DemoTenant]) -> float:
        described = {"pid": os.getpid(), "ready_seconds": 0.0} | stack.describe()
        described["tenants"] = [asdict(tenant) for tenant in tenants]
        seconds = time.monotonic() - self._started
        described["ready_seconds"] = round(seconds, 3)
        path = stack.data.write_secret(READY_FILE, json.dumps(described, indent=2) + "\n")
        if self._narrator.plain:
            self._introduce(stack, tenants, path)
        self._narrator.say(f"ready in {seconds:.1f} s")
        return seconds

    def _introduce(self, stack: Stack, tenants: list[DemoTenant], path: Path) -> None:
        say = self._narrator.say
        say(f"REST and gRPC   http://{stack.edge} (Envoy)")
        say(f"REST            http://{stack.bridge} (bridge)   gRPC {stack.grpc}")
        say(f"X-Admin-Token   {stack.token}")
        for tenant in tenants:
            say(f"{tenant.name:<15} {tenant.key}")
        say(f"all of it is in {path}")

    async def _show(
        self, stack: Stack, tenants: list[DemoTenant], watch: Watch, seconds: float
    ) -> None:
        console = Console()
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(
                    view.render(stack, tenants, watch.sight, self._narrator, seconds),
                    refresh=True,
                )
                await asyncio.sleep(FRAME_SECONDS)
