"""Legacy API of commands: polling and results."""

from __future__ import annotations

from typing import Any

from spotplane.v1 import agent_pb2, agent_pb2_grpc

from tests.legacy.field import UNKNOWN_ID, Field, covers
from tests.legacy.test_agents import register
from tests.support.fleet import TYPE, ZONES
from tests.support.market import put_prices

TARGET = f"{TYPE}.{ZONES[1]}"


async def issue(field: Field, agent_id: str, kind: str = "switch", **more: Any) -> str:
    """Issue a command and return its id."""
    request = agent_pb2.IssueCommandRequest(agent_id=agent_id, type=kind)
    fields = {"priority": more.pop("priority", None), "name": more.pop("name", None)}
    for name, value in fields.items():
        if value is not None:
            setattr(request, name, value)
    request.parameters.update(more)
    stub = field.plane.stub(agent_pb2_grpc.AgentServiceStub)
    issued = await stub.IssueCommand(request, metadata=field.tenant.metadata)
    return str(issued.id)


async def state(field: Field, agent_id: str, command_id: str) -> str:
    """Return a command's state."""
    stub = field.plane.stub(agent_pb2_grpc.AgentServiceStub)
    reported = await stub.GetCommand(
        agent_pb2.GetCommandRequest(agent_id=agent_id, command_id=command_id),
        metadata=field.tenant.metadata,
    )
    return str(reported.status)


@covers("53", "good")
async def test_a_poll_leases_one_switch(field: Field) -> None:
    await put_prices(field.plane)
    agent_id = await register(field)
    path = f"/api/agents/{agent_id}/pending-commands"
    assert await field.get(path) == []
    command_id = await issue(
        field, agent_id, target_mode="spot", target_pool_id=TARGET, terminate_wait_seconds=60
    )

    (reported,) = await field.get(path)

    assert reported.pop("created_at").endswith("Z")
    assert reported.pop("expires_at").endswith("Z")
    assert reported.pop("metadata")["trigger"] == "MANUAL"
    assert reported == {
        "id": command_id,
        "request_id": command_id,
        "agent_id": agent_id,
        "instance_id": "i-1",
        "command_type": "switch",
        "target_mode": "spot",
        "target_pool_id": TARGET,
        "replica_id": None,
        "priority": 75,
        "terminate_wait_seconds": 60,
    }
    assert await field.get(path) == []
    assert (await field.get(f"/api/agents/{agent_id}"))["status"] == "switching"


async def test_a_loop_agent_never_reads_null_where_a_number_is_due(field: Field) -> None:
    agent_id = await register(field)
    await issue(field, agent_id, "custom", name="greet")
    await issue(field, agent_id, "update_config")
    assert await field.get(f"/api/agents/{agent_id}/pending-commands") == []
    await issue(field, agent_id, terminate_wait_seconds="soon")
    (reported,) = await field.get(f"/api/agents/{agent_id}/pending-commands")
    assert (reported["terminate_wait_seconds"], reported["target_mode"]) == (0, "ondemand")


@covers("53 X11", "bad")
async def test_an_instance_id_has_a_length(field: Field) -> None:
    agent_id = await register(field)
    for route in ("pending-commands", "commands/pending"):
        path = f"/api/agents/{agent_id}/{route}"
        await field.refused(
            "VALIDATION_ERROR", "GET", f"{path}?instance_id={'i' * 200}", status=400
        )
        await field.refused(
            "VALIDATION_ERROR", "GET", path, status=400, headers={"X-Instance-Id": "i" * 200}
        )


@covers("53 54 X10 X11 X12", "foreign")
async def test_another_tenants_commands_are_not_there(field: Field) -> None:
    agent_id = await register(field)
    command_id = await issue(field, agent_id)
    base = f"/api/agents/{agent_id}"
    for method, path, body in (
        ("GET", f"{base}/pending-commands", None),
        ("GET", f"{base}/commands/pending", None),
        ("POST", f"{base}/commands/{command_id}/executed", {}),
        ("POST", f"{base}/mark-command-executed", {"command_id": command_id}),
        ("POST", f"{base}/action-result", {"request_id": command_id, "result": "SUCCESS"}),
    ):
        await field.refused("NOT_FOUND", method, path, body, status=404, by=field.foreign)
    assert await state(field, agent_id, command_id) == "pending"


async def test_readers_do_not_lease(field: Field) -> None:
    agent_id = await register(field)
    key = (await field.plane.key(field.tenant.id, role="read_only")).key
    assert (await field.get(f"/api/agents/{agent_id}/config", by=key))["enabled"]
    for route in ("pending-commands", "commands/pending"):
        await field.refused(
            "FORBIDDEN", "GET", f"/api/agents/{agent_id}/{route}", status=403, by=key
        )


@covers("54 X10", "good")
async def test_the_first_result_stays(field: Field) -> None:
    agent_id = await register(field)
    command_id = await issue(field, agent_id, target_mode="ondemand")
    await field.get(f"/api/agents/{agent_id}/pending-commands")
    executed = f"/api/agents/{agent_id}/commands/{command_id}/executed"
    body = {"success": False, "error": "no capacity", "duration_seconds": 1.5, "result": {"a": 1}}

    assert await field.post(executed, body) == {"success": True}
    assert await field.post(executed, {}) == {"success": True}
    marked = f"/api/agents/{agent_id}/mark-command-executed"
    assert await field.post(marked, {"command_id": command_id}) == {"success": True}

    assert await state(field, agent_id, command_id) == "failed"
    assert (await field.get(f"/api/agents/{agent_id}"))["status"] == "online"


@covers("54 X10 X12", "bad")
async def test_a_command_that_is_not_there(field: Field) -> None:
    agent_id = await register(field)
    other = await register(field, "i-2", logical_agent_id="search")
    theirs = await issue(field, other, target_mode="ondemand")
    for command_id in (UNKNOWN_ID, "nope", theirs):
        base = f"/api/agents/{agent_id}"
        for path, body in (
            (f"{base}/commands/{command_id}/executed", {}),
            (f"{base}/mark-command-executed", {"command_id": command_id}),
            (f"{base}/action-result", {"request_id": command_id, "result": "SUCCESS"}),
        ):
            await field.refused("NOT_FOUND", "POST", path, body, status=404)
    for route in ("mark-command-executed", "action-result"):
        await field.refused(
            "VALIDATION_ERROR", "POST", f"/api/agents/{agent_id}/{route}", {}, status=400
        )


@covers("X11 X12", "good")
async def test_a_switch_in_the_action_dialect_is_several_steps(field: Field) -> None:
    await put_prices(field.plane)
    agent_id = await register(field, "i-1", logical_agent_id=None)
    command_id = await issue(
        field, agent_id, target_mode="spot", target_pool_id=TARGET, terminate_wait_seconds=0
    )
    polled = f"/api/agents/{agent_id}/commands/pending"

    reply = await field.get(polled)

    (launch,) = reply["commands"]
    assert launch.pop("metadata")["trigger"] == "MANUAL"
    assert launch == {
        "command_type": "LAUNCH_INSTANCE",
        "request_id": command_id,
        "instance_id": f"switch-{command_id[:8]}",
        "params": {
            "target_pool": f"spot.{TARGET}",
            "az": ZONES[1],
            "instance_type": TYPE,
            "role_hint": "primary",
        },
    }
    assert await field.get(polled) == {"commands": []}

    result = {
        "request_id": command_id,
        "agent_id": agent_id,
        "result": "SUCCESS",
        "cloud_instance_id": "i-2",
        "metadata": {},
    }
    for _ in range(2):
        assert await field.post(f"/api/agents/{agent_id}/action-result", result) == {
            "success": True
        }

    shown = await field.get(f"/api/agents/{agent_id}")
    assert (shown["instance_id"], shown["current_pool_id"]) == ("i-2", TARGET)
    (promote,) = (await field.get(f"{polled}?instance_id=i-2"))["commands"]
    assert (promote["command_type"], promote["params"]) == (
        "PROMOTE_REPLICA_TO_PRIMARY",
        {"replica_instance_id": "i-2", "old_primary_id": "i-1"},
    )
    done = {"request_id": promote["request_id"], "result": "SUCCESS"}
    await field.post(f"/api/agents/{agent_id}/action-result", done)
    assert await field.get(polled) == {"commands": []}
