"""Live events over HTTP, for browsers."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from tests.legacy.field import ADMIN, UNKNOWN_ID, Field, covers
from tests.support.link import Hand

Frame = dict[str, Any]


async def read(response: Any, until: str) -> list[Frame]:
    """Read a stream's events up to the first with a name."""
    frames: list[Frame] = []
    async with asyncio.timeout(15):
        while not frames or frames[-1]["event"] != until:
            block = (await response.content.readuntil(b"\n\n")).decode()
            lines = dict(line.split(": ", 1) for line in block.strip().splitlines())
            lines["data"] = orjson.loads(lines["data"])
            frames.append(lines)
    return frames


@covers("72 X22", "good")
async def test_event_stream_resumes_by_id(field: Field) -> None:
    async with field.send("GET", "/api/events/stream?types=instance_status_change") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"
        await read(response, "connected")
        await Hand(field.plane, field.tenant).register("i-1")
        change = (await read(response, "instance_status_change"))[-1]

    assert change["data"] | {"timestamp": ""} == {
        "type": "instance_status_change",
        "client_id": field.tenant.id,
        "timestamp": "",
        "data": {
            "agent_id": change["data"]["data"]["agent_id"],
            "instance_id": "i-1",
            "old_status": None,
            "new_status": "launching",
        },
    }
    path = f"/api/events/stream/{field.tenant.id}?types=instance_status_change&names=upper"
    async with field.send("GET", path, headers={"Last-Event-ID": change["id"]}) as response:
        again = await read(response, "INSTANCE_RUNNING")
    assert [frame["event"] for frame in again] == [
        "CONNECTED",
        "INSTANCE_STATE_CHANGED",
        "INSTANCE_RUNNING",
    ]
    assert int(again[-1]["id"]) > int(change["id"])


@covers("72", "bad")
@covers("X22", "bad")
async def test_unknown_event_type_is_refused_before_the_stream(field: Field) -> None:
    for path in ("/api/events/stream", f"/api/events/stream/{field.tenant.id}"):
        reply = await field.refused(
            "VALIDATION_ERROR", "GET", f"{path}?types=all_of_it", status=400
        )
        assert reply["details"][0]["field"] == "types"


@covers("72 X22", "foreign")
async def test_another_tenants_events_are_not_there(field: Field) -> None:
    for tenant_id in (field.tenant.id, UNKNOWN_ID, "nonsense"):
        for path in (
            f"/api/events/stream/{tenant_id}",
            f"/api/events/stream?client_id={tenant_id}",
        ):
            await field.refused("NOT_FOUND", "GET", path, by=field.foreign, status=404)


async def test_administrator_receives_events_of_all_tenants_or_of_one(field: Field) -> None:
    narrow = f"/api/events/stream?client_id={field.tenant.id}"
    async with (
        field.send("GET", "/api/events/stream", by=ADMIN) as wide,
        field.send("GET", narrow, by=ADMIN) as one,
    ):
        await asyncio.gather(read(wide, "connected"), read(one, "connected"))
        await Hand(field.plane, field.foreign).register("i-foreign")
        await Hand(field.plane, field.tenant).register("i-own")
        first = (await read(wide, "instance_status_change"))[-1]
        only = (await read(one, "instance_status_change"))[-1]
    assert first["data"]["data"]["instance_id"] == "i-foreign"
    assert only["data"]["data"]["instance_id"] == "i-own"
