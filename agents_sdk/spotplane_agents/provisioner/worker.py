"""Provisioner worker: leases operations and executes them."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import grpc
import grpc.aio
from spotplane.v1 import node_pb2 as pb
from spotplane.v1.node_pb2_grpc import NodeServiceStub

from spotplane_agents.backoff import Pace
from spotplane_agents.errors import AgentError, ProviderError
from spotplane_agents.provisioner.machines import Machines, Order

logger: Final = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")
Outcome = Literal["working", "done", "failed", "dropped"]

RETRY: Final = Pace(base=1.0, cap=15.0)
WAIT_SECONDS: Final = 20
CALL_SECONDS: Final = 30.0
# A third of a lease: two reports may get lost.
KEEP_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 2.0
GONE: Final = frozenset({None, "stopping", "terminated"})


class LeaseLost(AgentError):
    """The operation is done, cancelled, or leased by another provisioner."""


@dataclass
class Provisioner:
    """Executes operations until it is stopped; several may run, on any machines.

    Args:
        channel: Channel to the server.
        token: Token of an administrator with scope `nodes:write`.
        machines: The clouds.
        providers: The server's providers that those clouds are.
        holder: Its own human-readable name.
        at_once: Most operations at a time.
        look_seconds: Time between checks of a machine that is starting.
    """

    channel: grpc.aio.Channel
    token: str = field(repr=False)
    machines: Machines
    providers: Sequence[str]
    holder: str
    at_once: int = 16
    look_seconds: float = LOOK_SECONDS
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Work until cancelled; started operations are then released."""
        failures = 0
        try:
            while True:
                await self._room()
                try:
                    leased = await self._lease()
                except grpc.aio.AioRpcError as error:
                    failures += 1
                    logger.warning("no work could be had: %s", error.details())
                    await asyncio.sleep(RETRY.wait_seconds(failures, random.random))
                    continue
                failures = 0
                for operation in leased:
                    self._begin(operation)
        finally:
            await self._stop()

    async def _room(self) -> None:
        while len(self._tasks) >= self.at_once:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _lease(self) -> Sequence[pb.NodeOperation]:
        request = pb.LeaseNodeOperationsRequest(
            holder=self.holder,
            providers=self.providers,
            limit=self.at_once - len(self._tasks),
            wait_seconds=WAIT_SECONDS,
        )
        response = await self._call("LeaseNodeOperations", request, WAIT_SECONDS + CALL_SECONDS)
        return list(response.operations)

    def _begin(self, operation: pb.NodeOperation) -> None:
        task = asyncio.ensure_future(_Operation(self, operation).run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _call(self, method: str, request: Any, seconds: float = CALL_SECONDS) -> Any:
        stub = getattr(NodeServiceStub(self.channel), method)
        return await stub(
            request, metadata=(("x-admin-token", self.token),), timeout=seconds, wait_for_ready=True
        )

    async def report(self, operation: pb.NodeOperation, outcome: Outcome, **details: Any) -> bool:
        """Report on an operation; return whether to continue.

        A lost report has no effect: the lease limits the time until another one has to succeed.
        """
        request = pb.ReportNodeOperationRequest(
            operation_id=operation.id, attempt=operation.attempt, outcome=outcome, **details
        )
        try:
            return bool((await self._call("ReportNodeOperation", request)).open)
        except grpc.aio.AioRpcError as error:
            logger.warning("%s: a report was lost: %s", operation.cluster_name, error.details())
            return True


class _Operation:
    """One operation."""

    def __init__(self, owner: Provisioner, operation: pb.NodeOperation) -> None:
        self._owner = owner
        self._operation = operation
        self._machine_id: str | None = (
            operation.machine_id if operation.HasField("machine_id") else None
        )
        self._order = Order(
            launch_id=operation.launch_id,
            cluster_name=operation.cluster_name,
            provider=operation.provider,
            region=operation.region,
            instance_type=operation.instance_type,
            spot=operation.spot,
            model=operation.model,
        )

    async def run(self) -> None:
        """Execute the operation to its end, and report the outcome."""
        name, kind = self._operation.cluster_name, self._operation.kind
        logger.info("%s: %s, attempt %d", name, kind, self._operation.attempt)
        try:
            await (self._launch() if kind == "launch" else self._terminate())
        except LeaseLost:
            await self._report("dropped")
        except ProviderError as error:
            await self._report("failed", retryable=True, message=str(error)[:1000])
        except asyncio.CancelledError:
            with suppress(Exception):
                await asyncio.shield(self._report("dropped"))
            raise
        except Exception as error:
            logger.exception("%s: %s met with a defect", name, kind)
            await self._report("failed", retryable=True, message=f"defect: {type(error).__name__}")

    async def _launch(self) -> None:
        machines, order = self._owner.machines, self._order
        await self._working(
            phase="provisioning",
            message=f"{order.provider} is asked for a {order.instance_type} in {order.region}",
        )
        # An earlier attempt may have reached this point.
        if self._machine_id is None:
            self._machine_id = await self._with_lease(machines.find(order))
        if self._machine_id is None:
            self._machine_id = await self._with_lease(machines.launch(order))
        machine_id = self._machine_id
        await self._working(message=f"its machine is {machine_id}")
        await self._until_running(machine_id)
        await self._working(phase="instance_ready", message=f"{machine_id} runs")
        await self._working(phase="installing", message="its node is to register")
        while True:
            await asyncio.sleep(self._owner.look_seconds)
            await self._lives(machine_id)
            await self._working()

    async def _until_running(self, machine_id: str) -> None:
        while await self._lives(machine_id) != "running":
            await asyncio.sleep(self._owner.look_seconds)
            await self._working()

    async def _lives(self, machine_id: str) -> str:
        state = await self._with_lease(self._owner.machines.state(self._order, machine_id))
        if state in GONE:
            # Its client token is used up: no other attempt could get another machine.
            message = f"{machine_id} has ended before its node registered"
            await self._report("failed", retryable=False, message=message)
            raise LeaseLost
        return str(state)

    async def _terminate(self) -> None:
        machines, order = self._owner.machines, self._order
        machine_id = self._machine_id or await self._with_lease(machines.find(order))
        if machine_id is None:
            await self._report("done", message="there was no machine")
            return
        self._machine_id = machine_id
        await self._with_lease(machines.terminate(order, machine_id))
        while await self._with_lease(machines.state(order, machine_id)) not in GONE:
            await asyncio.sleep(self._owner.look_seconds)
            await self._working()
        await self._report("done", message=f"{machine_id} was ended")

    async def _working(self, **details: Any) -> None:
        if not await self._report("working", **details):
            raise LeaseLost

    async def _report(self, outcome: Outcome, **details: Any) -> bool:
        return await self._owner.report(
            self._operation, outcome, machine_id=self._machine_id, **details
        )

    async def _with_lease(self, work: Awaitable[ResultT]) -> ResultT:
        """Await a call to the cloud and renew the lease meanwhile.

        The call is always awaited to its end: a machine that it creates must be known, so that it
        can be
        terminated.
        """
        async with self._keeping():
            return await work

    @asynccontextmanager
    async def _keeping(self) -> AsyncIterator[None]:
        async def keep() -> None:
            while True:
                await asyncio.sleep(KEEP_SECONDS)
                await self._report("working")

        keeper = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
