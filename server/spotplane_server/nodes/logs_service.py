"""NodeService: logs, read at once or followed as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from google.api import httpbody_pb2
from spotplane.v1 import node_pb2 as pb

from spotplane_server.kernel.api import http_body, wire
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.nodes import bells, logs_store, requests
from spotplane_server.nodes.errors import NodeNotFound
from spotplane_server.nodes.handlers import Handlers
from spotplane_server.nodes.logs_store import Line, State

EVENT_STREAM: Final = "text/event-stream"
# A hint may be lost, and the state may move without a line.
LOOK_SECONDS: Final = 2.0
PING_SECONDS: Final = 15.0
# Ids are given out before their commits: so far back a line may still turn up.
OVERLAP: Final = 1000


class LogHandlers(Handlers):
    """What happened to a node."""

    async def ListNodeLogs(
        self, request: pb.ListNodeLogsRequest, context: Context
    ) -> pb.ListNodeLogsResponse:
        node_id = requests.node_id(request.id)
        tail, since = requests.log_window(request, self._clock.now())
        async with self._db.connection(ALL_TENANTS) as conn:
            if await logs_store.find_state(conn, node_id) is None:
                raise NodeNotFound
            lines = await logs_store.list_tail(conn, node_id, since=since, limit=tail)
        return pb.ListNodeLogsResponse(
            node_id=str(node_id), count=len(lines), logs=map(_message, lines)
        )

    async def StreamNodeLogs(
        self, request: pb.StreamNodeLogsRequest, context: Context
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        node_id = requests.node_id(request.id)
        tail, since = requests.log_window(request, self._clock.now())
        follow = request.follow if request.HasField("follow") else True
        with self._lines.hearing([node_id]) as heard:
            watch = _Watch(node_id, since)
            # The state before the lines: so every line of what led to it is among them.
            state = await self._state(node_id)
            async with self._db.connection(ALL_TENANTS) as conn:
                lines = await logs_store.list_tail(conn, node_id, since=since, limit=tail)
            was_launching = state.launching
            yield _body([watch.status(state), *watch.unseen(lines)])
            while follow and not _over(state, was_launching=was_launching):
                await bells.wait(heard, LOOK_SECONDS)
                state = await self._state(node_id)
                async with self._db.connection(ALL_TENANTS) as conn:
                    lines = await logs_store.list_after(conn, node_id, watch.floor, since=since)
                frames = [*watch.unseen(lines), watch.status(state), watch.ping(LOOK_SECONDS)]
                if any(frames):
                    yield _body(frames)
            yield _body(_last(state))

    async def _state(self, node_id: UUID) -> State:
        async with self._db.connection(ALL_TENANTS) as conn:
            state = await logs_store.find_state(conn, node_id)
        if state is None:
            raise NodeNotFound
        return state


class _Watch:
    """What a follower has seen."""

    def __init__(self, node_id: UUID, since: datetime) -> None:
        self._node_id = node_id
        self._since = since
        self._seen: set[int] = set()
        self._status: dict[str, Any] | None = None
        self._quiet_seconds = 0.0
        self._newest = 0

    @property
    def floor(self) -> int:
        """Lines up to here are not looked for again."""
        return max(0, self._newest - OVERLAP)

    def unseen(self, lines: Iterable[Line]) -> list[bytes]:
        """Frames of the lines that are new."""
        frames = []
        for line in lines:
            if line.id not in self._seen:
                self._seen.add(line.id)
                frames.append(_frame("log", http_body.to_json(_message(line)), line.id))
                self._newest = max(self._newest, line.id)
        self._seen = {number for number in self._seen if number > self.floor}
        self._quiet_seconds = 0.0 if frames else self._quiet_seconds
        return frames

    def status(self, state: State) -> bytes:
        """A frame when the state has changed; else nothing."""
        status = {
            "node_id": str(self._node_id),
            "status": state.status,
            "stage": state.stage,
            "progress": state.progress,
        }
        if status == self._status:
            return b""
        self._status, self._quiet_seconds = status, 0.0
        return _frame("status", status)

    def ping(self, seconds: float) -> bytes:
        """A comment when nothing was sent for long, so that proxies keep the connection."""
        self._quiet_seconds += seconds
        if self._quiet_seconds < PING_SECONDS:
            return b""
        self._quiet_seconds = 0.0
        return b": still here\n\n"


def _over(state: State, *, was_launching: bool) -> bool:
    return state.status == "dead" or (was_launching and not state.launching)


def _last(state: State) -> list[bytes]:
    done = _frame("done", {"status": state.status})
    if state.launch_status != "failed":
        return [done]
    return [_frame("error", {"message": state.error or "the launch has failed"}), done]


def _message(line: Line) -> pb.NodeLog:
    return pb.NodeLog(
        timestamp=wire.timestamp(line.logged_at),
        level=line.level,
        message=line.message,
        phase=line.phase,
        progress=line.progress,
    )


def _frame(event: str, data: Any, number: int | None = None) -> bytes:
    head = b"" if number is None else b"id: %d\n" % number
    return b"%bevent: %b\ndata: %b\n\n" % (head, event.encode(), orjson.dumps(data))


def _body(frames: Iterable[bytes]) -> httpbody_pb2.HttpBody:
    return httpbody_pb2.HttpBody(content_type=EVENT_STREAM, data=b"".join(frames))
