"""What a running `spotplane dev` offers."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from tests.dev.conftest import FREE_PORTS, Development
from tests.support.command import spotplane
from tests.support.eventually import eventually


async def get(url: str, **headers: str) -> tuple[int, Any, Any]:
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


async def admin(up: Development, *arguments: str) -> Any:
    done = await spotplane("admin", "--data-dir", str(up.data_dir), *arguments, "--json")
    assert done.status == 0, done
    return json.loads(done.out)


async def test_it_says_how_long_it_took(up: Development) -> None:
    """From the command to the last answer, PostgreSQL made new."""
    assert f"ready in {up.said['ready_seconds']:.1f} s" in up.text


async def test_secrets_are_readable_to_their_owner_only(up: Development) -> None:
    """Tokens and keys are on disk, but not for others."""
    for name in ("dev.json", "admin_token", "demo.json"):
        assert (up.data_dir / name).stat().st_mode & 0o777 == 0o600


async def test_every_door_answers_alike(up: Development) -> None:
    """Envoy, the bridge and gRPC read the same tenant."""
    tenant = up.said["tenants"][0]["id"]
    token = up.said["admin_token"]

    answers = [
        (await get(f"{up.said[door]}/admin/tenants/{tenant}", **{"X-Admin-Token": token}))[1]
        for door in ("edge", "bridge")
    ]
    called = await spotplane(
        *("call", "--data-dir", str(up.data_dir)),
        *("TenantService.GetTenant", json.dumps({"id": tenant})),
    )

    names = {answer["name"] for answer in [*answers, json.loads(called.out)]}
    assert names == {up.said["tenants"][0]["name"]}


async def test_both_rest_doors_tell_a_tenants_budget(up: Development) -> None:
    """A dashboard sees how much it may still ask, whichever way it came."""
    key = up.said["tenants"][0]["key"]
    for door in ("edge", "bridge"):
        status, _, headers = await get(
            f"{up.said[door]}/v1/usage/by-hour?hours=1", Authorization=f"Bearer {key}"
        )
        assert (status, headers["X-RateLimit-Limit"]) == (200, "6000")
        assert int(headers["X-RateLimit-Remaining"]) < 6000


async def test_metrics_of_every_process_are_where_it_says(up: Development) -> None:
    """Server, bridge and Envoy each have a page to scrape."""
    async with aiohttp.ClientSession() as http:
        for url in up.said["metrics"].values():
            async with http.get(url) as answer:
                assert answer.status == 200
                assert "# TYPE" in await answer.text()


async def test_agents_of_both_tenants_connect_and_report_usage(up: Development) -> None:
    """The fleet is real: sessions on one side, priced usage on the other."""

    async def connected() -> bool:
        listed = await admin(up, "agents", "list")
        return [agent["connected"] for agent in listed["data"]] == [True] * 6

    await eventually(connected, within=20, every=0.3)
    for tenant in up.said["tenants"]:

        async def costs(key: str = tenant["key"]) -> bool:
            url = f"{up.said['edge']}/v1/usage/by-hour?hours=1"
            _, body, _ = await get(url, Authorization=f"Bearer {key}")
            return float(body["data"][-1]["total_cost_usd"]) > 0

        await eventually(costs, within=20, every=0.3)


async def test_notice_fails_over_to_the_standing_replica(up: Development) -> None:
    """An operator's notice moves the agent to the instance that stood by, and it is told how."""

    async def standing() -> Any:
        listed = await admin(up, "replicas", "list", "chat-01")
        return [replica for replica in listed["data"] if replica["status"] == "ready"]

    (replica,) = await eventually(standing, within=20, every=0.3)
    await admin(up, "notice", "chat-01")

    async def moved() -> bool:
        agent = await admin(up, "agents", "show", "chat-01")
        return bool(agent["instance_id"] == replica["instance_id"])

    await eventually(moved, every=0.3)
    await eventually(lambda: "FAILOVER of chat-01" in up.text)
    await eventually(lambda: "the new primary took over" in up.text)


async def test_second_one_on_the_same_directory_is_refused(up: Development) -> None:
    """It says who is there, and what to do."""
    done = await spotplane("dev", "--data-dir", str(up.data_dir), *FREE_PORTS)

    assert done.status == 1
    assert str(up.process.pid) in done.err
    assert "--data-dir" in done.err
    assert (up.data_dir / "dev.json").exists()


async def test_taken_port_is_refused_by_name(up: Development) -> None:
    """A server that shares its port would not notice; this does."""
    port = up.said["grpc"].rpartition(":")[2]

    done = await spotplane(
        *("dev", "--data-dir", str(up.data_dir / "other")),
        *("--port", "0", "--bridge-port", "0", "--grpc-port", port),
    )

    assert done.status == 1
    assert f"port {port} is taken" in done.err
