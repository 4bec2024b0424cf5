"""Composition root: builds, starts and stops all components in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server
from spotplane.v1 import (
    agent_pb2_grpc,
    event_pb2_grpc,
    failover_pb2_grpc,
    instance_type_pb2_grpc,
    model_pb2_grpc,
    region_pb2_grpc,
    replica_pb2_grpc,
)

from spotplane_server import audit, events, readiness
from spotplane_server.agents import primary
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.handlers import Standby
from spotplane_server.agents.jobs import RETENTION, CommandsJob, LeftoversJob, LivenessJob
from spotplane_server.agents.service import AgentService
from spotplane_server.agents.sessions.registry import AGENTS_TOPIC, Sessions
from spotplane_server.agents.sessions.stream import AgentStream
from spotplane_server.audit import module as audit_trail
from spotplane_server.audit.refusals import Refusals
from spotplane_server.catalog.instance_types_service import InstanceTypeService
from spotplane_server.catalog.models_service import ModelService
from spotplane_server.catalog.regions_service import RegionService
from spotplane_server.config import ServerConfig
from spotplane_server.decisions import module as decisions
from spotplane_server.decisions.loop import PACE_SECONDS, DecisionLoop
from spotplane_server.events.dispatcher import EventHub
from spotplane_server.events.rate_limit_events import Thresholds
from spotplane_server.events.service import EventService
from spotplane_server.failover.reconciler import Reconciler
from spotplane_server.failover.service import FailoverService
from spotplane_server.fleet import hooks as fleet_ports
from spotplane_server.fleet import module as fleet
from spotplane_server.insights import module as insights
from spotplane_server.kernel import front, gc_tuning, logs, startup
from spotplane_server.kernel.background_task import background_task, task_scope
from spotplane_server.kernel.clock import Clock, DatabaseClock, SystemClock
from spotplane_server.kernel.db import partitions, query_metrics
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.jobs import retention
from spotplane_server.kernel.jobs.pacer import Pacer
from spotplane_server.kernel.jobs.runner import JobRunner
from spotplane_server.kernel.module import AppContext, FeatureModule
from spotplane_server.kernel.ratelimit.redis_limiter import RedisLimiter
from spotplane_server.kernel.rpc.interceptor import ServerInterceptor
from spotplane_server.market import module as fleet_market
from spotplane_server.market.reports import AgentsPrices
from spotplane_server.nodes import module as nodes
from spotplane_server.notifications import module as notifications
from spotplane_server.prices import module as market
from spotplane_server.prices import reports as market_reports
from spotplane_server.prices.pipeline import TOPIC as CLEAN_PRICES_TOPIC
from spotplane_server.prices.pipeline import PipelineJob
from spotplane_server.prices.reports import PriceReports
from spotplane_server.replicas import instance_hooks
from spotplane_server.replicas.agent_hooks import Handover
from spotplane_server.replicas.binding import Binding
from spotplane_server.replicas.jobs import CoordinatorJob
from spotplane_server.replicas.lifecycle import Replicas
from spotplane_server.replicas.reports import ReplicaReports
from spotplane_server.replicas.service import ReplicaService
from spotplane_server.savings import module as savings
from spotplane_server.spending import module as spending
from spotplane_server.spending.jobs import BudgetsJob
from spotplane_server.tenants import module as tenants
from spotplane_server.usage import intake as usage_intake
from spotplane_server.usage import module as usage
from spotplane_server.usage.intake import Intake
from spotplane_server.usage.reports import UsageReports

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

    from spotplane_server.kernel.tracing import Traces

log = structlog.get_logger(__name__)


def build(kernel: AppContext) -> FeatureModule:
    """Build every feature."""
    intake = Intake.of(kernel)
    panel = decisions.build_panel(kernel)
    features = [
        _events(kernel),
        audit_trail.assemble(kernel),
        tenants.assemble(kernel),
        _catalog(kernel),
        usage.assemble(kernel, intake),
        *_agents(kernel, intake),
        market.assemble(kernel),
        fleet_market.assemble(kernel),
        nodes.assemble(kernel),
        decisions.assemble(kernel, panel),
        spending.assemble(kernel),
        savings.assemble(kernel),
        notifications.assemble(kernel),
        insights.assemble(kernel, panel),
    ]
    forgotten = [rule for feature in features for rule in feature.retention]
    return FeatureModule(
        services=[service for feature in features for service in feature.services],
        jobs=[
            partitions.PartitionJob(kernel.db, kernel.config.partitions_ahead),
            retention.RetentionJob(kernel.db, forgotten, _tell_cleanup),
            *(job for feature in features for job in feature.jobs),
        ],
        background=[background for feature in features for background in feature.background],
        drain=[drain for feature in features for drain in feature.drain],
        retention=forgotten,
    )


async def _tell_cleanup(conn: Conn, done: int, now: datetime) -> None:
    """Say in the log of events that a day's forgetting is done."""
    await events.append(conn, events.Event("data.cleanup", "retention", {"deleted": done}), now)


def _events(kernel: AppContext) -> FeatureModule:
    hub = EventHub(kernel.db)
    add = event_pb2_grpc.add_EventServiceServicer_to_server
    service = EventService(kernel.db, kernel.clock, hub)
    return FeatureModule([(add, service)], [], background=[hub.run], drain=[hub.drain])


def _agents(kernel: AppContext, intake: Intake) -> list[FeatureModule]:
    db, clock, tokens, config = kernel.db, kernel.clock, kernel.tokens, kernel.config
    offline_after = timedelta(seconds=config.offline_seconds)
    ledger = Ledger(db, kernel.wakeups)
    sessions = Sessions(
        db,
        clock,
        kernel.wakeups,
        ledger,
        server_id=kernel.server_id,
        heartbeat=timedelta(seconds=config.heartbeat_seconds),
    )
    replicas = Replicas(ledger)
    binding = Binding(replicas)
    replica_reports = ReplicaReports(db, replicas, binding)
    reconciler = Reconciler(db, clock, replicas, ledger, sessions, offline_after)
    failovers = FailoverService(db, clock, tokens, reconciler, replica_reports)
    handover = Handover(replicas)
    ledger.on_final(
        {"create_replica": replica_reports.on_create_command, "switch": primary.on_switch}
    )
    stream = AgentStream(
        db,
        clock,
        sessions,
        ledger,
        {
            "notice": failovers.on_notice,
            "replica": sessions.telling(replica_reports.on_report),
            "termination": sessions.telling(failovers.on_termination),
            "prices": AgentsPrices(db, PriceReports(db, kernel.wakeups)).on_report,
            "usage": UsageReports(intake).on_report,
        },
        config.stream_stall_seconds,
    )
    standby = Standby(
        binding.bind, handover.end_all, replica_reports.confirm_gone, failovers.on_termination
    )
    agents = AgentService(
        db, clock, tokens, sessions, ledger, stream, standby, offline_after=offline_after
    )
    instances = fleet.assemble(
        kernel,
        ledger,
        sessions,
        fleet_ports.Standby(
            standby,
            instance_hooks.serves,
            partial(instance_hooks.launched, binding),
            handover.inherit,
        ),
    )
    parts = FeatureModule(
        services=[
            (agent_pb2_grpc.add_AgentServiceServicer_to_server, agents),
            (
                replica_pb2_grpc.add_ReplicaServiceServicer_to_server,
                ReplicaService(
                    db, clock, tokens, replicas, binding, replica_reports, ledger, sessions
                ),
            ),
            (failover_pb2_grpc.add_FailoverServiceServicer_to_server, failovers),
        ],
        jobs=[
            LivenessJob(db, offline_after),
            CommandsJob(db, ledger),
            LeftoversJob(db),
            CoordinatorJob(db, ledger, replicas, sessions.signal_agent, offline_after),
            reconciler,
        ],
        background=[sessions.run, sessions.sweep],
        drain=[sessions.drain],
        retention=RETENTION,
    )
    return [parts, instances]


def _catalog(kernel: AppContext) -> FeatureModule:
    common = (kernel.db, kernel.clock, kernel.tokens)
    return FeatureModule(
        services=[
            (
                region_pb2_grpc.add_RegionServiceServicer_to_server,
                RegionService(*common, kernel.config),
            ),
            (
                instance_type_pb2_grpc.add_InstanceTypeServiceServicer_to_server,
                InstanceTypeService(*common),
            ),
            (model_pb2_grpc.add_ModelServiceServicer_to_server, ModelService(*common)),
        ],
        jobs=[],
    )


class BackgroundTaskEnded(Exception):
    """A task that the server needs has ended; the log has its error."""


class Server:
    """A running control plane process; closing ``stack`` stops it.

    Attributes:
        failed: Set when a background task has ended, without which the server must not go on.
    """

    def __init__(
        self,
        kernel: AppContext,
        parts: FeatureModule,
        grpc_server: grpc.aio.Server,
        healthy: Any,
        port: int,
        stack: AsyncExitStack,
    ) -> None:
        self.kernel = kernel
        self.parts = parts
        self.port = port
        self.failed = asyncio.Event()
        self._grpc = grpc_server
        self._healthy = healthy
        self._stack = stack

    @classmethod
    async def start(
        cls,
        config: ServerConfig,
        clock: Clock | None = None,
        *,
        on_statement: Callable[[LoggedQuery], None] | None = None,
    ) -> Server:
        """Start serving; the port is in ``port``.

        Args:
            config: Settings.
            clock: PostgreSQL's unless given.
            on_statement: Told of each statement that ran; traces are unless given.

        Raises:
            MigrationRefused: The database is older or newer than this program.
            OSError, asyncpg.PostgresError: The database is not to be had.
            RuntimeError: The port is not.
        """
        stack = AsyncExitStack()
        try:
            return await cls._start(stack, config, clock, on_statement)
        except BaseException:
            await stack.aclose()
            raise

    @classmethod
    async def _start(
        cls,
        stack: AsyncExitStack,
        config: ServerConfig,
        clock: Clock | None,
        on_statement: Callable[[LoggedQuery], None] | None,
    ) -> Server:
        server_id = str(uuid4())
        traces = _traces(config, server_id)
        if traces is not None:
            stack.push_async_callback(traces.close)
            on_statement = traces.statement if on_statement is None else on_statement
        on_statement = query_metrics.timed(on_statement)
        kernel = await _open(stack, config, clock, server_id, on_statement)
        parts = build(kernel)
        before = front.build(
            kernel,
            refused=Refusals(kernel.db, kernel.clock).record,
            tell=Thresholds(kernel.db, kernel.clock).tell,
            traces=traces,
        )
        grpc_server = _grpc_server(config, before.gate)
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, grpc_server)
        for add, servicer in parts.services:
            add(servicer, grpc_server)
        reflection.enable_server_reflection(readiness.service_names(), grpc_server)
        port = grpc_server.add_insecure_port(f"{config.host}:{config.port}")
        server = cls(kernel, parts, grpc_server, healthy, port, stack)
        await server._run(before)
        return server

    async def _background(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        task = background_task(coroutine, name, self.failed.set)
        await self._stack.enter_async_context(task)

    async def _run(self, before: front.Front) -> None:
        background = self._background
        ahead = self.kernel.config.partitions_ahead
        await partitions.PartitionJob(self.kernel.db, ahead).run_once(self.kernel.clock.now())
        runner = JobRunner(
            self.kernel.db, self.kernel.clock, self.kernel.server_id, self.parts.jobs
        )

        # Whatever changed of an agent may leave it without the replica that it should have, or give
        # an open failover the replica that it waits for.
        def look_again(_agent: str) -> None:
            runner.signal(CoordinatorJob.name)
            runner.signal(Reconciler.name)

        self.kernel.wakeups.listen(AGENTS_TOPIC, look_again)
        self.kernel.wakeups.listen(
            market_reports.TOPIC, lambda _key: runner.signal(PipelineJob.name)
        )
        pacer = Pacer(lambda: runner.signal(DecisionLoop.name), PACE_SECONDS)
        self.kernel.wakeups.listen(AGENTS_TOPIC, pacer.hint)
        self.kernel.wakeups.listen(CLEAN_PRICES_TOPIC, pacer.hint)
        await background(pacer.run(), "decision-pacer")
        spenders = Pacer(lambda: runner.signal(BudgetsJob.name), usage_intake.PACE_SECONDS)
        self.kernel.wakeups.listen(usage_intake.TOPIC, spenders.hint)
        await background(spenders.run(), "budgets-pacer")
        await background(self.kernel.wakeups.run(), "wakeups")
        await background(before.gate.recheck_streams(), "recheck")
        await background(before.admission.announce(), "thresholds")
        if isinstance(self.kernel.limits, RedisLimiter):
            await background(self.kernel.limits.run(), "limits")
            await self.kernel.limits.tried()
        if isinstance(self.kernel.clock, DatabaseClock):
            await background(self.kernel.clock.run(self.kernel.db), "clock")
        for run in self.parts.background:
            await background(run(), getattr(run, "__qualname__", "background"))
        await self._grpc.start()
        self._stack.push_async_callback(before.repeats.settle)
        self._stack.push_async_callback(self._stop_grpc)
        await background(runner.run(), "jobs")
        await background(readiness.report(self.kernel, runner, self._healthy), "health")
        log.info("serving", port=self.port, server_id=self.kernel.server_id)

    async def stop(self) -> None:
        """Let streams go, finish calls, stop jobs, close the database."""
        await self._stack.aclose()
        logs.access.flush()

    async def leave_balancing(self) -> None:
        """Report NOT_SERVING from now on: load balancers send their next calls elsewhere."""
        await self._healthy.enter_graceful_shutdown()

    async def _stop_grpc(self) -> None:
        await self.leave_balancing()
        # Streams first: otherwise stopping waits out the whole grace for them.
        for drain in self.parts.drain:
            await drain()
        await self._grpc.stop(self.kernel.config.drain_seconds)

    async def wait(self) -> None:
        """Serve until stopped."""
        await self._grpc.wait_for_termination()


async def serve(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the notice at once.

    Raises:
        BackgroundTaskEnded: The server stopped because it could not go on.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def stopping() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping)
    server = await Server.start(config)
    start_http_server(config.admin_port, addr=config.host)
    try:
        async with (
            background_task(gc_tuning.run(), "collector", server.failed.set),
            task_scope(server.failed.wait(), "failed") as failed,
            task_scope(stop.wait(), "stop") as stopped,
        ):
            await asyncio.wait([failed, stopped], return_when=asyncio.FIRST_COMPLETED)
            await server.leave_balancing()
            with suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), config.drain_notice_seconds)
    finally:
        await server.stop()
    if server.failed.is_set():
        raise BackgroundTaskEnded


async def _open(
    stack: AsyncExitStack,
    config: ServerConfig,
    clock: Clock | None,
    server_id: str,
    on_statement: Callable[[LoggedQuery], None] | None,
) -> AppContext:
    """Open the database, Redis and the replica, each to be closed with the stack."""
    db = await Database.open(
        config.database_url, size=config.db_pool_size, on_statement=on_statement
    )
    stack.push_async_callback(db.close)
    if clock is None:
        machine = SystemClock(timedelta(seconds=config.clock_offset_seconds))
        clock = await DatabaseClock.open(db, machine)
    kernel = await startup.open_kernel(config, db, clock, server_id, audit.credential_configured)
    if kernel.redis is not None:
        stack.push_async_callback(kernel.redis.aclose)
    replica = await startup.open_replica(config, on_statement)
    if replica is not None:
        stack.push_async_callback(replica.close)
    return replace(kernel, replica=replica)


def _traces(config: ServerConfig, server_id: str) -> Traces | None:
    if config.otlp_endpoint is None:
        return None
    from spotplane_server.kernel.tracing import Traces  # noqa: PLC0415 - optional

    return Traces(config.otlp_endpoint, server_id)


def _grpc_server(config: ServerConfig, gate: ServerInterceptor) -> grpc.aio.Server:
    logs.hide_metadata()
    return grpc.aio.server(
        interceptors=[gate],
        options=[
            ("grpc.so_reuseport", 1),
            # Identity only: gRPC unpacks a message before it looks at the size, so that 400 KiB
            # of gzip would take 400 MiB.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            ("grpc.max_receive_message_length", (config.max_body_mib + 1) * 1024 * 1024),
            # Above the edge's 32 KiB of request headers, of which gRPC counts 32 bytes more for
            # each: it answers RESOURCE_EXHAUSTED beyond, which is 429 over REST.
            ("grpc.max_metadata_size", 40 * 1024),
            ("grpc.absolute_max_metadata_size", 64 * 1024),
            # Streams beyond it are refused before Python sees them. Without it, 200,000 calls that
            # are reset at once (CVE-2023-44487) held 2 GB and answers back for 8 s; with it, 5 MB.
            ("grpc.max_concurrent_streams", config.max_streams_per_connection),
            # Agents behind NAT ping to keep their mapping; the default would cut them off. A limit
            # does not help against floods of PING either: gRPC 1.76 handles every frame of a burst
            # beyond it as one more error of the connection, which took 0.5 GB and blocked the
            # process for 1.5 s, where answering the same frames costs next to nothing.
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        ],
    )
