"""A simulated cloud on disk: its machines outlive the process that launched them.

A machine is a file, created once per client token by the first process. The process that opens the
directory runs its live machines: each machine boots, registers its node, loads its model and then
sends heartbeats, all over real gRPC.
"""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, cast

import grpc
import grpc.aio
from spotplane.v1 import node_pb2 as pb
from spotplane.v1.node_pb2_grpc import NodeServiceStub

from spotplane_agents.providers import InstanceState
from spotplane_agents.provisioner.machines import Order

logger: Final = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1.0
# Without its engine a machine reaches half the score.
LOADING_SCORE: Final = 50
SERVING_SCORE: Final = 97


@dataclass(frozen=True, slots=True)
class Pace:
    """Durations of the simulated steps, in seconds."""

    launch: float = 0.5
    """Until the cloud responds to a launch, after the machine exists."""
    boot: float = 1.0
    load: float = 2.0
    """Until the model is loaded, after it has booted."""
    heartbeat: float = HEARTBEAT_SECONDS


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, as stored in its file."""

    machine_id: str
    order: Order
    state: InstanceState


class SimulatedMachines:
    """Machines in a directory.

    Args:
        directory: Their folder; created when absent.
        channel: Channel to the server, for their nodes.
        metadata: The credential that their nodes call with.
        pace: Durations of the steps.
    """

    def __init__(
        self,
        directory: Path,
        channel: grpc.aio.Channel,
        metadata: tuple[tuple[str, str], ...],
        pace: Pace | None = None,
    ) -> None:
        self._directory = directory
        self._stub = NodeServiceStub(channel)
        self._metadata = metadata
        self._pace = pace or Pace()
        self._running: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        """Run the live machines of the directory."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for machine in self.machines():
            if machine.state not in ("stopping", "terminated"):
                self._start(machine)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop running machines here; they stay alive in the directory."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def machines(self) -> Iterator[Machine]:
        """All machines that were ever created."""
        for path in sorted(self._directory.glob("*.json")):
            yield _read(path)

    async def find(self, order: Order) -> str | None:
        """See ``Machines.find``."""
        machine = self._of(order)
        return machine.machine_id if machine and machine.state != "terminated" else None

    async def launch(self, order: Order) -> str:
        """See ``Machines.launch``."""
        machine_id = f"i-{hashlib.sha256(order.launch_id.encode()).hexdigest()[:17]}"
        self._put_once(Machine(machine_id, order, "running"))
        machine = self._of(order)
        if machine is not None and machine.state == "running":
            self._start(machine)
        await asyncio.sleep(self._pace.launch)
        return machine_id

    async def state(self, order: Order, machine_id: str) -> InstanceState | None:
        """See ``Machines.state``."""
        machine = self._of(order)
        return machine.state if machine and machine.machine_id == machine_id else None

    async def terminate(self, order: Order, machine_id: str) -> None:
        """See ``Machines.terminate``."""
        machine = self._of(order)
        if machine is None or machine.machine_id != machine_id:
            return
        self._put(replace(machine, state="terminated"))
        task = self._running.pop(machine_id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _of(self, order: Order) -> Machine | None:
        try:
            return _read(self._path(order))
        except FileNotFoundError:
            return None

    def _path(self, order: Order) -> Path:
        return self._directory / f"{order.launch_id}.json"

    def _put_once(self, machine: Machine) -> None:
        """Create the file unless it exists; atomically, even if the process dies meanwhile."""
        written = self._write(machine)
        try:
            os.link(written, self._path(machine.order))
        except FileExistsError:
            pass
        finally:
            written.unlink()

    def _put(self, machine: Machine) -> None:
        self._write(machine).replace(self._path(machine.order))

    def _write(self, machine: Machine) -> Path:
        path = self._directory / f"{machine.order.launch_id}.{os.getpid()}"
        path.write_text(json.dumps(asdict(machine)), encoding="utf-8")
        return path

    def _start(self, machine: Machine) -> None:
        if machine.machine_id not in self._running:
            live = asyncio.create_task(self._live(machine))
            self._running[machine.machine_id] = live

    async def _live(self, machine: Machine) -> None:
        await asyncio.sleep(self._pace.boot)
        node_id = await self._register(machine, "initializing")
        await self._send_heartbeat(node_id, LOADING_SCORE)
        await asyncio.sleep(self._pace.load)
        while True:
            if not await self._send_heartbeat(node_id, SERVING_SCORE):
                node_id = await self._register(machine, "active")
            await asyncio.sleep(self._pace.heartbeat)

    async def _register(self, machine: Machine, status: str) -> str:
        order = machine.order
        request = pb.RegisterNodeRequest(
            provider=order.provider,
            endpoint_url=f"http://{machine.machine_id}.simulated.invalid:8000",
            cluster_name=order.cluster_name,
            region=order.region,
            instance_type=order.instance_type,
            model_name=order.model,
            spot_instance=order.spot,
            status=status,
        )
        while True:
            response = await self._call("RegisterNode", request)
            if response is not None:
                return str(response.node_id)
            await asyncio.sleep(RETRY_SECONDS)

    async def _send_heartbeat(self, node_id: str, score: float) -> bool:
        """Send a heartbeat; False when the server requests a new registration."""
        request = pb.NodeHeartbeatRequest(id=node_id, health_score=score)
        try:
            await self._stub.Heartbeat(request, metadata=self._metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.NOT_FOUND
        return True

    async def _call(self, method: str, request: Any) -> Any:
        try:
            return await getattr(self._stub, method)(request, metadata=self._metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            logger.warning("a simulated machine's %s: %s", method, error.details())
            return None


def _read(path: Path) -> Machine:
    found = json.loads(path.read_text(encoding="utf-8"))
    state = cast("InstanceState", found["state"])
    return Machine(found["machine_id"], Order(**found["order"]), state)
