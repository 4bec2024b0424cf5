"""Uploads of browsers and scripts, with right and wrong labels."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import FormData

from tests.legacy.field import Field
from tests.support.plane import ADMIN_TOKEN

ROUTE = "/api/admin/ml-models/upload"
RULES = json.dumps(
    {
        "name": "calm",
        "version": "1",
        "rules": [
            {
                "when": "false",
                "decision": "switch",
                "target": "cheapest",
                "confidence": 0.5,
                "reason": "never",
            }
        ],
    }
).encode()
ADMIN = {"X-Admin-Token": ADMIN_TOKEN}
BODY = (
    b"--boundary-of-mine\r\n"
    b'Content-Disposition: form-data; name="files"; filename="calm.json"\r\n'
    b"Content-Type: application/json\r\n\r\n" + RULES + b"\r\n--boundary-of-mine--\r\n"
)


async def _send(field: Field, data: Any, status: int, **headers: str) -> Any:
    async with field.http.post(ROUTE, data=data, headers={**ADMIN, **headers}) as response:
        reply = await response.json()
        assert response.status == status, reply
        return reply


@pytest.mark.parametrize("label", ["application/json", "application/octet-stream", ""])
async def test_the_boundary_is_read_from_the_body(field: Field, label: str) -> None:
    reply = await _send(field, BODY, 200, **{"Content-Type": label})
    assert reply["files"] == ["calm.json"]


async def test_files_may_come_in_several_parts(field: Field) -> None:
    form = FormData()
    form.add_field("note", "of no use")
    form.add_field("model", RULES, filename="calm.json")
    reply = await _send(field, form, 200)
    assert len(reply["files"]) == 1


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"no boundary here", b"--x\r\n\r\n", b"--x\r\nbad", BODY[:-40]]
)
async def test_what_is_no_upload_is_refused(field: Field, data: bytes) -> None:
    reply = await _send(field, data, 400, **{"Content-Type": "application/json"})
    assert reply["code"] in {"VALIDATION_ERROR", "UNSUPPORTED_MODEL_FORMAT", "MODEL_INVALID"}


async def test_an_upload_has_an_end(field: Field) -> None:
    headers = {**ADMIN, "Content-Length": str(101 * 1024 * 1024), "Content-Type": "multipart/x"}

    async def nothing() -> Any:
        yield b"-"

    async with field.http.post(ROUTE, data=nothing(), headers=headers) as response:
        assert response.status == 413
        assert (await response.json())["code"] == "PAYLOAD_TOO_LARGE"


async def test_a_repeated_upload_is_one(field: Field) -> None:
    key = {"Idempotency-Key": "upload-of-today", "Content-Type": "application/json"}
    first = await _send(field, BODY, 200, **key)
    assert await _send(field, BODY, 200, **key) == first
