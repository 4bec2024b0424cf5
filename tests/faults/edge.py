"""Two servers and two bridges behind one Envoy, with clients that never stop calling."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

import aiohttp
import grpc.aio
from spotplane.v1 import tenant_pb2, tenant_pb2_grpc
from spotplane_bridge.addresses import Address
from spotplane_bridge.edge.config import EdgeConfig
from spotplane_bridge.edge.process import start_envoy

from tests.faults.process import BridgeProcess, ServerProcess
from tests.support.plane import ADMIN, ADMIN_TOKEN, Tenant, running

ANY_PORT: Final = Address("127.0.0.1", 0)
REQUESTS_PER_SECOND: Final = 200
# Longer than two of the edge's health checks.
DRAIN_NOTICE_SECONDS: Final = "2"
# A loaded machine is sent fewer requests instead of a queue of them.
REQUESTS_AT_ONCE: Final = 24
Request = Callable[[], Awaitable[object]]


@dataclass
class Edge:
    """Two of each behind one address."""

    servers: list[ServerProcess]
    bridges: list[BridgeProcess]
    target: str
    admin: str
    tenant: Tenant

    async def balanced(self) -> bool:
        """Whether Envoy's health checks find every process healthy."""
        url = f"http://{self.admin}/clusters?format=json"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            clusters = (await answer.json(content_type=None))["cluster_statuses"]
        states = [host["health_status"] for c in clusters for host in c["host_statuses"]]
        return all(state == {"eds_health_status": "HEALTHY"} for state in states)


@asynccontextmanager
async def doubled(database_url: str, directory: Path) -> AsyncIterator[Edge]:
    """The whole installation for the block."""
    async with running(database_url) as plane:
        tenant = await plane.tenant()
    async with AsyncExitStack() as stack:
        servers = [
            ServerProcess(
                database_url,
                directory / f"server-{n}.log",
                drain_notice_seconds=DRAIN_NOTICE_SECONDS,
                trusted_proxies="127.0.0.1/32",
                db_pool_size="12",
            )
            for n in range(2)
        ]
        for server in servers:
            stack.push_async_callback(server.kill)
        await asyncio.gather(*(server.start() for server in servers))
        targets = ",".join(server.target for server in servers)
        bridges = [
            BridgeProcess(
                directory / f"bridge-{n}.log",
                grpc_target=targets,
                drain_notice_seconds=DRAIN_NOTICE_SECONDS,
                trusted_proxies="127.0.0.1/32",
            )
            for n in range(2)
        ]
        for bridge in bridges:
            stack.push_async_callback(bridge.kill)
        await asyncio.gather(*(bridge.start() for bridge in bridges))
        config = EdgeConfig(
            listen=ANY_PORT,
            admin=ANY_PORT,
            grpc_upstreams=tuple(Address.parse(server.target) for server in servers),
            bridge_upstreams=tuple(Address.parse(bridge.target) for bridge in bridges),
            max_connections_per_address=0,
        )
        envoy = await start_envoy(config, directory, directory / "envoy.log", concurrency=1)
        stack.push_async_callback(envoy.stop)
        yield Edge(servers, bridges, str(envoy.listen), str(envoy.admin), tenant)


@dataclass
class Load:
    """A steady mix of reads and keyed writes over REST and gRPC, and which of them failed.

    Attributes:
        failed: When each failed request was sent, in seconds of the monotonic clock, and why.
        sent: How many requests were sent.
        stopped: Ends the run.
    """

    failed: list[tuple[float, str]] = field(default_factory=list)
    sent: int = 0
    stopped: bool = False

    def failed_after(self, since: float) -> list[str]:
        """Failures of requests that were sent after a moment."""
        return [f"{at - since:+.2f} s: {why}" for at, why in self.failed if at > since]

    async def run(self, requests: list[Request]) -> None:
        """Send requests in turns until `stopped`; those under way are finished."""
        free = asyncio.Semaphore(REQUESTS_AT_ONCE)
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for request in itertools.cycle(requests):
                due = max(due + 1 / REQUESTS_PER_SECOND, time.monotonic() - 0.1)
                await asyncio.sleep(due - time.monotonic())
                await free.acquire()
                if self.stopped:
                    return
                group.create_task(self._send(request)).add_done_callback(lambda _: free.release())

    async def _send(self, request: Request) -> None:
        self.sent += 1
        at = time.monotonic()
        try:
            await request()
        except (aiohttp.ClientError, grpc.aio.AioRpcError, TimeoutError) as err:
            self.failed.append((at, str(err) or repr(err)))


@asynccontextmanager
async def loaded(edge: Edge) -> AsyncIterator[Load]:
    """Send requests for the block; those under way are finished before it ends."""
    load = Load()
    async with (
        aiohttp.ClientSession(
            f"http://{edge.target}", timeout=aiohttp.ClientTimeout(total=20)
        ) as http,
        grpc.aio.insecure_channel(edge.target) as channel,
    ):
        task = asyncio.create_task(load.run(_requests(edge.tenant, http, channel)))
        try:
            yield load
        finally:
            load.stopped = True
            await task


def _requests(
    tenant: Tenant, http: aiohttp.ClientSession, channel: grpc.aio.Channel
) -> list[Request]:
    admin = {"x-admin-token": ADMIN_TOKEN}
    key = {"authorization": f"Bearer {tenant.key}"}
    stub = tenant_pb2_grpc.TenantServiceStub(channel)

    def rest(method: str, path: str, headers: dict[str, str], body: object = None) -> Request:
        async def send() -> None:
            keyed = headers | ({"idempotency-key": uuid4().hex} if method != "GET" else {})
            async with http.request(method, path, headers=keyed, json=body) as answer:
                text = await answer.text()
                if answer.status >= 400:
                    raise aiohttp.ClientError(f"{method} {path}: {answer.status} {text}")

        return send

    async def grpc_read() -> None:
        await stub.GetTenant(tenant_pb2.GetTenantRequest(id=tenant.id), metadata=ADMIN, timeout=20)

    async def grpc_write() -> None:
        await stub.UpdateTenant(
            tenant_pb2.UpdateTenantRequest(id=tenant.id, name="Renamed"),
            metadata=(*ADMIN, ("idempotency-key", uuid4().hex)),
            timeout=20,
        )

    return [
        rest("GET", f"/admin/tenants/{tenant.id}", admin),
        rest("GET", f"/api/client/{tenant.id}/agents", key),
        grpc_read,
        rest("PUT", f"/admin/tenants/{tenant.id}", admin, {"name": "Renamed"}),
        rest("GET", f"/api/client/{tenant.id}", key),
        rest("POST", "/api/notifications/mark-all-read", key, {}),
        grpc_write,
        rest("GET", "/v1/models", key),
    ]
