"""What agents and dashboards do over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from spotplane_bridge import app as bridge
from spotplane_bridge.config import BridgeConfig

from tests.nodes.test_logs import events
from tests.nodes.world import Nodes
from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, Metadata


@pytest.fixture
async def http(nodes: Nodes) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the bridge."""
    config = BridgeConfig(
        port=0, grpc_target=nodes.plane.target, drain_timeout_s=5, log_level="WARNING"
    )
    async with (
        bridge.running(config) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def _post(http: aiohttp.ClientSession, path: str, who: Metadata, body: Any = None) -> Any:
    async with http.post(path, headers=dict(who), json=body) as response:
        return response.status, await response.json()


async def _get(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(path, headers=dict(ADMIN)) as response:
        assert response.status == 200
        return await response.json()


async def test_an_agent_goes_the_whole_way_with_its_key(
    nodes: Nodes, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    """Register, heartbeat, termination warning, drain, deregister; then it is dead."""
    key = await nodes.agent_key((await nodes.plane.tenant()).id)
    body = {
        "provider": "aws",
        "endpoint_url": "http://10.0.0.9:8000",
        "cluster_name": "gpu-1",
        "region": "us-east-1",
        "model_name": "llama-3-8b",
        "vram_total_gb": 24.0,
        "spot_instance": True,
    }
    status, made = await _post(http, "/admin/nodes/register", key, body)
    assert (status, made["status"]) == (201, "registered")
    assert await _post(http, "/admin/nodes/register", key, body) == (
        200,
        {"status": "updated", "node_id": made["node_id"]},
    )
    at = f"/admin/nodes/{made['node_id']}"
    beat = {"health_score": 88.5, "timestamp": clock.now().isoformat()}
    deadline = {"deadline": (clock.now() + timedelta(seconds=90)).isoformat()}
    for path, sent, said in (
        ("heartbeat", beat, "ok"),
        ("termination-warning", deadline, "received"),
        ("drain", None, "draining"),
    ):
        assert await _post(http, f"{at}/{path}", key, sent) == (200, {"status": said})

    [listed] = await _get(http, "/admin/nodes?provider=aws")
    assert await _get(http, "/admin/nodes/gpu-1/status") == {
        "cluster_name": "gpu-1",
        "status": "draining",
    }
    assert await _post(http, f"{at}/deregister", key) == (200, {"status": "deregistered"})

    assert (listed["status"], listed["health_score"], listed["model"]) == (
        "draining",
        88.5,
        "llama-3-8b",
    )
    assert (await _get(http, "/admin/nodes/gpu-1"))["status"] == "dead"
    status, said = await _post(http, f"{at}/heartbeat", key, beat)
    assert (status, said["error"]["code"]) == (404, "NODE_NOT_FOUND")
    status, said = await _post(http, "/admin/nodes/gpu-1/terminate", key)
    assert (status, said["error"]["code"]) == (401, "ADMIN_TOKEN_MISSING")


async def test_a_dashboard_reads_bare_arrays_and_follows_a_log(
    nodes: Nodes, http: aiohttp.ClientSession
) -> None:
    """An envelope only when asked for; the log comes as server-sent events."""
    order = {"model_name": "llama-3-8b", "provider": "aws", "region": "us-east-1", "gpu": "a10g"}
    status, made = await _post(http, "/admin/instances/launch", ADMIN, order)
    assert (status, made["status"]) == (201, "launching")
    assert await _get(http, "/admin/nodes") == []
    async with http.get("/admin/nodes?status=launching", headers=dict(ADMIN)) as response:
        [node] = await response.json()
        assert (node["id"], response.headers["x-total-count"]) == (made["node_id"], "1")
    envelope = await _get(http, "/admin/nodes?status=launching&envelope=true")
    assert (len(envelope["data"]), envelope["pagination"]["total"]) == (1, 1)
    job = await _get(http, f"/admin/instances/status?job_id={made['job_id']}")
    assert (job["status"], job["stage"], job["model"]) == ("launching", "queued", "llama-3-8b")

    url = f"/admin/nodes/{made['node_id']}/logs/stream"
    async with http.get(url, headers=dict(ADMIN)) as stream:
        assert stream.content_type == "text/event-stream"
        first = events(await stream.content.readuntil(b"\n\n"))
        await nodes.terminate(node["cluster_name"])
        rest = events(await stream.content.read())

    assert first == [
        (
            "status",
            {"node_id": made["node_id"], "status": "launching", "stage": "queued", "progress": 0},
        )
    ]
    assert rest[-1] == ("done", {"status": "dead"})
    assert "log" in {name for name, _ in rest}
