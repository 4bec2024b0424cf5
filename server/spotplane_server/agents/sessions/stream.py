"""The Connect stream: reads what an agent says, writes what the plane says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import structlog
from google.rpc import status_pb2
from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server import events
from spotplane_server.agents import convert, errors, store
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.sessions import store as store_module
from spotplane_server.agents.sessions.inbox import Inbox
from spotplane_server.agents.sessions.registry import Sessions
from spotplane_server.agents.sessions.session import Session
from spotplane_server.kernel import errors as kernel_errors
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.background_task import task_scope
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import (
    PERMANENT_ERRORS,
    Database,
    retry_on_serialization_failure,
)
from spotplane_server.kernel.errors import Conflict, DeadlineExceeded, DomainError, Unavailable
from spotplane_server.kernel.ratelimit.limiter import Layer, LocalRateLimiter
from spotplane_server.kernel.ratelimit.policy import AGENT_CALLS, WINDOW_SECONDS
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.failures import as_domain

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a report comes from."""

    tenant_id: TenantId
    agent_id: UUID
    instance_id: str
    environment_id: UUID | None


# Takes one kind of report, idempotently. A lasting refusal is acknowledged as such; `Unavailable`
# and `Conflict` end the stream, and the agent sends the report again.
ReportHandler: TypeAlias = Callable[[Origin, Any, datetime], Awaitable[None]]


class AgentStream:
    """Serves Connect.

    Args:
        db: The database.
        clock: The plane's clock.
        sessions: The sessions of this process.
        ledger: The commands.
        reports: Who takes which kind of report, by its field's name.
        stall_seconds: How long a stream may wait for its first message.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        sessions: Sessions,
        ledger: Ledger,
        reports: Mapping[str, ReportHandler],
        stall_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._sessions = sessions
        self._ledger = ledger
        self._stall_seconds = stall_seconds
        self._opened = LocalRateLimiter()
        self._reports = {"command_result": self._command_result, **reports}

    async def connect(
        self, requests: AsyncIterator[pb.ConnectRequest]
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Hold one conversation; see the proto's comment for what ends it."""
        call = request_context.current()
        caller, stream = call.caller, call.stream
        assert stream is not None
        stream.expect(self._stall_seconds, _no_hello)
        hello = await _hello(requests)
        stream.arrived()
        agent_id = wire.uuid(hello.agent_id, "hello.agent_id", "agent ID")
        if caller.tenant_id is None or (caller.kind == "agent" and caller.id != str(agent_id)):
            raise errors.AgentNotFound
        wire.text(hello.instance_id, "hello.instance_id", maximum=128, required=True)
        self._count_stream(caller.tenant_id, hello.instance_id)
        async with (
            self._sessions.attach(caller.tenant_id, hello, agent_id) as session,
            task_scope(self._read(requests, session, caller.environment_id), "reader"),
        ):
            # A session is limited by its instance, which has one.
            with stream.uncounted():
                yield self._welcome(session)
                async for answer in session.answers():
                    if answer is not None:
                        yield answer
                        continue
                    for response in await self._sessions.fetch(session):
                        yield response

    def _count_stream(self, tenant_id: TenantId, instance_id: str) -> None:
        """Limit how often one instance opens a session, each of which is a transaction.

        Raises:
            TooFrequent: It did too often.
        """
        key, now = f"{tenant_id}/{instance_id}", self._clock.now().timestamp()
        layer = Layer("RATE_LIMIT_EXCEEDED", key, AGENT_CALLS, WINDOW_SECONDS)
        verdict = self._opened.decide([layer], now)
        if verdict.refused:
            raise errors.TooFrequent(verdict.standings[0].frees_at - now)

    async def _read(
        self,
        requests: AsyncIterator[pb.ConnectRequest],
        session: Session,
        environment_id: UUID | None,
    ) -> None:
        origin = Origin(session.tenant_id, session.agent_id, session.instance_id, environment_id)

        async def handle(request: pb.ConnectRequest) -> None:
            if not session.closed:
                await self._take(request, session, origin)

        def fail(err: Exception) -> None:
            session.end(as_domain(err))

        async with Inbox(handle, fail) as inbox:
            try:
                async for request in requests:
                    if request.WhichOneof("kind") == "heartbeat":
                        self._heartbeat(session, request.heartbeat)
                    else:
                        await inbox.put(request)
                    if session.closed:
                        return
                await inbox.drained()
                session.end()
            except Exception as err:  # noqa: BLE001 - it must end the stream, not hang it
                if not isinstance(err, errors.TooFrequent):
                    await inbox.drained()
                fail(err)

    async def _take(self, request: pb.ConnectRequest, session: Session, origin: Origin) -> None:
        kind = request.WhichOneof("kind")
        if kind == "report":
            await self._report(session, request.report, origin)
        elif kind == "command_progress":
            await self._ledger.progress(
                origin.tenant_id, origin.agent_id, request.command_progress, self._clock.now()
            )
        elif kind == "goodbye":
            await self._goodbye(session, request.goodbye)
        elif kind == "hello":
            raise errors.UnexpectedMessage("hello was said already")
        else:
            raise errors.UnknownMessage("a message of no known kind", field="kind")

    def _heartbeat(self, session: Session, heartbeat: pb.Heartbeat) -> None:
        session.admit_heartbeat()
        if heartbeat.seq <= session.last_seq:
            return
        session.last_seq = heartbeat.seq
        self._sessions.beat(session, heartbeat)
        session.say(
            pb.ConnectResponse(
                heartbeat_ack=pb.HeartbeatAck(
                    seq=heartbeat.seq, next_heartbeat_delay=convert.duration(session.pace())
                )
            )
        )

    async def _report(self, session: Session, report: pb.Report, origin: Origin) -> None:
        expected = session.next_report_seq
        if expected is not None and report.seq > expected:
            raise errors.OutOfOrder(
                f"report {report.seq} came where {expected} was expected",
                expected_seq=str(expected),
            )
        error: status_pb2.Status | None = None
        if expected is None or report.seq == expected:
            error = await self._handle(report, origin)
            session.next_report_seq = report.seq + 1
        session.say(pb.ConnectResponse(report_ack=pb.ReportAck(seq=report.seq, error=error)))

    async def _handle(self, report: pb.Report, origin: Origin) -> status_pb2.Status | None:
        kind = report.WhichOneof("kind")
        try:
            handler = self._reports.get(kind or "")
            if handler is None or kind is None:
                raise errors.UnknownMessage("a report of no known kind", field="report.kind")
            message = getattr(report, kind)
            await retry_on_serialization_failure(
                lambda: handler(origin, message, self._clock.now())
            )
        except (Unavailable, Conflict):
            raise
        except DomainError as err:
            log.info("report_refused", kind=kind, reason=err.reason, message=err.message)
            return kernel_errors.to_status(err, request_context.correlation_id() or "")
        except PERMANENT_ERRORS as err:  # or it would come back for ever, and hold up all behind it
            log.error("report_defect", kind=kind, exc_info=err)
            return kernel_errors.to_status(
                kernel_errors.Internal(), request_context.correlation_id() or ""
            )
        return None

    async def _command_result(
        self, origin: Origin, result: pb.CommandResult, now: datetime
    ) -> None:
        await self._ledger.finish(origin.tenant_id, origin.agent_id, result, now)
        self._sessions.signal_agent(origin.agent_id)

    async def _goodbye(self, session: Session, goodbye: pb.Goodbye) -> None:
        wire.text(goodbye.reason, "goodbye.reason", maximum=500)
        now = self._clock.now()
        origin = session.tenant_id, session.agent_id, session.instance_id
        async with self._db.transaction(session.tenant_id) as conn:
            # Of a session that was replaced it means nothing: the newer one stays.
            if await store_module.say_goodbye(
                conn, session.tenant_id, session.instance_id, session.epoch, now
            ) and await store.set_offline_if_primary(conn, *origin, now):
                await events.append(conn, convert.marked_offline(*origin, "it said goodbye"), now)
        session.goodbye = True
        session.end()

    def _welcome(self, session: Session) -> pb.ConnectResponse:
        return pb.ConnectResponse(
            welcome=pb.Welcome(
                session_id=str(session.id),
                epoch=session.epoch,
                server_time=wire.timestamp(self._clock.now()),
                next_heartbeat_delay=convert.duration(session.pace()),
                tenant_id=str(session.tenant_id),
            )
        )


def _no_hello() -> DomainError:
    return DeadlineExceeded("the first message did not come in time")


async def _hello(requests: AsyncIterator[pb.ConnectRequest]) -> pb.Hello:
    async for request in requests:
        if request.WhichOneof("kind") == "hello":
            return request.hello
        break
    raise errors.UnexpectedMessage("the first message must be hello")
