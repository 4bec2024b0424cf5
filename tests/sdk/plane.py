"""A scripted server over real gRPC that records the messages it receives."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import uuid4

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1.agent_pb2 import RegisterRequest, RegisterResponse
from spotplane_agents.commands import struct_of
from spotplane_agents.notices import stamp

from tests.support.eventually import eventually

Context = grpc.aio.ServicerContext[Any, Any]
BEAT_SECONDS = 0.05


@dataclass
class Stream:
    """One session as the plane sees it."""

    hello: pb.Hello
    outbox: "asyncio.Queue[pb.ConnectResponse | tuple[grpc.StatusCode, str] | None]"
    heard: list[pb.ConnectRequest] = field(default_factory=list)
    ended: bool = False

    def reports(self) -> list[pb.Report]:
        """Every report heard on this stream."""
        return [m.report for m in self.heard if m.HasField("report")]

    def beats(self) -> list[pb.Heartbeat]:
        """Every heartbeat heard on this stream."""
        return [m.heartbeat for m in self.heard if m.HasField("heartbeat")]

    def goodbyes(self) -> list[pb.Goodbye]:
        """The goodbye, if it was reply."""
        return [m.goodbye for m in self.heard if m.HasField("goodbye")]

    def say(self, **kind: Any) -> None:
        """Send one message."""
        self.outbox.put_nowait(pb.ConnectResponse(**kind))

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, reason: str = "") -> None:
        """End the stream with a status."""
        self.outbox.put_nowait(None if code is grpc.StatusCode.OK else (code, reason))


class ScriptedPlane:
    """Registers everybody, welcomes every stream, and acknowledges reports while ``acking``."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self._credentials = credentials
        self.port = 0
        self.acking = True
        self.beating = True
        self.ahead = timedelta()
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.desired = desired("primary")
        self.registrations: list[RegisterRequest] = []
        self.keys: list[str] = []
        self.streams: list[Stream] = []
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; after a stop, on the same port."""
        # Without this, a stopped server's port may be shared with the next test's.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([self._handlers()])
        at = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(at)
        else:
            self.port = self._server.add_secure_port(at, self._credentials)
        await self._server.start()

    def _handlers(self) -> grpc.GenericRpcHandler:
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Register": grpc.unary_unary_rpc_method_handler(
                self.Register, RegisterRequest.FromString, RegisterResponse.SerializeToString
            ),
            "Connect": grpc.stream_stream_rpc_method_handler(
                self.Connect, pb.ConnectRequest.FromString, pb.ConnectResponse.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler("spotplane.v1.AgentService", methods)

    async def stop(self) -> None:
        """Go away without a word, as a killed process."""
        if self._server is not None:
            await self._server.stop(None)

    @property
    def stream(self) -> Stream:
        """The newest stream."""
        return self.streams[-1]

    def reports(self, kind: str) -> list[Any]:
        """Every report of a kind that was heard on any stream, repeats included."""
        found = (r for s in self.streams for r in s.reports())
        return [getattr(r, kind) for r in found if r.WhichOneof("kind") == kind]

    async def wait_reports(self, kind: str, count: int = 1) -> list[Any]:
        """Wait until so many reports of a kind were heard, and list them."""
        await eventually(lambda: len(self.reports(kind)) >= count)
        return self.reports(kind)

    def progress(self, stage: "pb.CommandProgress.Stage.ValueType") -> list[str]:
        """Ids of the commands that reached a stage, in the order it was heard."""
        heard = [m.command_progress for s in self.streams for m in s.heard]
        return [p.command_id for p in heard if p.command_id and p.stage == stage]

    async def Register(self, request: RegisterRequest, context: Context) -> RegisterResponse:
        self.registrations.append(request)
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        self.keys.append(metadata["authorization"])
        if self.refuse is not None:
            await fail(context, *self.refuse)
        return RegisterResponse(
            agent_id="00000000-0000-0000-0000-000000000001",
            tenant_id="00000000-0000-0000-0000-000000000002",
            desired_state=self.desired,
        )

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        first = await anext(aiter(request_iterator))
        stream = Stream(first.hello, asyncio.Queue())
        self.streams.append(stream)
        delay = Duration()
        delay.FromTimedelta(timedelta(seconds=BEAT_SECONDS))
        stream.say(
            welcome=pb.Welcome(
                session_id=str(uuid4()),
                epoch=len(self.streams),
                server_time=stamp(datetime.now(UTC) + self.ahead),
                next_heartbeat_delay=delay,
            )
        )
        stream.say(desired_state=self.desired)
        reader = asyncio.create_task(self._read(request_iterator, stream, delay))
        try:
            while (response := await stream.outbox.get()) is not None:
                if isinstance(response, tuple):
                    await fail(context, *response)
                else:
                    yield response
        finally:
            stream.ended = True
            reader.cancel()

    async def _read(
        self, requests: AsyncIterator[pb.ConnectRequest], stream: Stream, delay: Duration
    ) -> None:
        async for request in requests:
            stream.heard.append(request)
            if request.HasField("heartbeat") and self.beating:
                ack = pb.HeartbeatAck(seq=request.heartbeat.seq, next_heartbeat_delay=delay)
                stream.say(heartbeat_ack=ack)
            elif request.HasField("report") and self.acking:
                stream.say(report_ack=pb.ReportAck(seq=request.report.seq))
        stream.end()


async def fail(context: Context, code: grpc.StatusCode, reason: str) -> None:
    """End a call as the plane does: with a reason in the status details."""
    detail = AnyMessage()
    detail.Pack(ErrorInfo(reason=reason, domain="spotplane"))
    status = Status(code=code.value[0], message=reason.lower(), details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(code, reason.lower())


def desired(role: str, generation: int = 1, **fields: Any) -> pb.DesiredState:
    """Word what an instance is to be."""
    config = pb.AgentConfig(enabled=fields.pop("enabled", True), config_version=generation)
    return pb.DesiredState(generation=generation, role=role, config=config, **fields)


def command(
    name: str, command_id: str = "", *, expires_in: float = 60.0, **fields: Any
) -> pb.CommandDelivery:
    """Word an order."""
    now = datetime.now(UTC)
    return pb.CommandDelivery(
        command_id=command_id or str(uuid4()),
        type=fields.pop("type", "custom"),
        name=name,
        parameters=struct_of(fields.pop("parameters", {})),
        priority=fields.pop("priority", 75),
        delivery=fields.pop("delivery", 1),
        created_at=stamp(now),
        expires_at=stamp(now + timedelta(seconds=expires_in)),
    )
