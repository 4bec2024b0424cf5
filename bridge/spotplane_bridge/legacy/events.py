"""Routes of live events, as server-sent events."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from spotplane_bridge.legacy.requests import Incoming, parameter
from spotplane_bridge.legacy.routes import LegacyRoute, route
from spotplane_bridge.legacy.sse import Events, Frame
from spotplane_bridge.serializer import compile_serializer


def _frames(incoming: Incoming, message: Any) -> list[Frame]:
    # The bridge sends heartbeats by itself, so a subscriber can detect a broken connection.
    if message.event.lower() == "heartbeat":
        return []
    tenant_id = message.tenant_id if message.HasField("tenant_id") else None
    return [_frame(message.event, message.id, tenant_id, message.timestamp, _data(message))]


def _heartbeat(incoming: Incoming, newest: str | None, now: datetime) -> Frame:
    at = Timestamp()
    at.FromDatetime(now)
    name = "HEARTBEAT" if incoming.query.get("names") == "upper" else "heartbeat"
    return _frame(name, newest, None, at, {})


def _frame(
    name: str, event_id: str | None, tenant_id: str | None, at: Timestamp, data: Any
) -> Frame:
    body = {
        "type": name,
        "client_id": tenant_id,
        "timestamp": at.ToJsonString(),
        "data": data,
    }
    return Frame(name, body, event_id)


def _data(message: Any) -> Any:
    return compile_serializer(message.data.DESCRIPTOR)(message.data)


def _upper(value: str) -> str | None:
    return "true" if value == "upper" else None


_HOW: Final[dict[str, Any]] = {
    "query": (
        "types",
        parameter("names", field="upper_case_names", convert=_upper, schema={"type": "string"}),
        "last_event_id",
    ),
    "headers": (parameter("Last-Event-ID", field="last_event_id"),),
}
_EVENTS: Final = Events(_frames, _heartbeat)

ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "72",
        "GET /api/events/stream",
        "EventService.Subscribe",
        _EVENTS,
        **{**_HOW, "query": (parameter("client_id", field="tenant_id"), *_HOW["query"])},
    ),
    route(
        "X22",
        "GET /api/events/stream/{client_id}",
        "EventService.Subscribe",
        _EVENTS,
        **_HOW,
    ),
)
