"""The line of each call: whole, without secrets, and not lost."""

from __future__ import annotations

import io
import json

from spotplane_server.kernel.logs import AccessLog

from tests.support.eventually import eventually


async def test_lines_are_gathered_and_written_soon() -> None:
    """Each event is one JSON line with level and time."""
    file, access = io.BytesIO(), AccessLog()
    access.send_to(file)

    access.write({"event": "rpc", "method": "/a/B", "tenant_id": None})
    access.write({"event": "rpc", "method": "/a/C", "tenant_id": None})

    await eventually(lambda: file.getvalue().count(b"\n") == 2)
    first, second = map(json.loads, file.getvalue().splitlines())
    assert (first["method"], second["method"]) == ("/a/B", "/a/C")
    assert first["level"] == "info"
    assert first["timestamp"].endswith("Z")


async def test_a_secret_in_a_line_is_cut() -> None:
    """Whatever a caller sends as its request id, no secret of ours reaches the log."""
    file, access = io.BytesIO(), AccessLog()
    access.send_to(file)
    secret = "sp_live_" + "a" * 32 + "_000000"

    access.write({"event": "rpc", "correlation_id": secret})
    access.flush()

    assert b"a" * 5 not in file.getvalue()
    assert json.loads(file.getvalue())["correlation_id"].startswith("sp_live_aaaa")
