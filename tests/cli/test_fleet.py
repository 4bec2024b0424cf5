"""`spotplane admin`: the fleet by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.prices.rules import bucket

from tests.cli.conftest import Operator
from tests.fleet.world import POOLS, World
from tests.nodes.world import Nodes
from tests.support.clock import FakeClock
from tests.support.plane import Plane

PUT_CLEAN_PRICE: Final = """
    INSERT INTO clean_prices (pool_id, bucket_at, price_nanousd, source, confidence, observed_at,
                              submission_id, revision)
    VALUES ($1, $2, 15000000, 'primary', 1, $2, '', 1)
"""


@pytest.fixture
async def world(plane: Plane, clock: FakeClock) -> World:
    """A tenant whose market has prices."""
    made = World(plane, await plane.tenant(), clock)
    await made.prices()
    return made


def _rules(path: Path, name: str) -> str:
    """A rule set that lets everything stay, as a file."""
    rule = {"when": "false", "decision": "stay", "target": "cheapest", "confidence": 0.9}
    rules: dict[str, Any] = {"name": name, "version": "1", "rules": [rule | {"reason": "calm"}]}
    file = path / f"{name}.json"
    file.write_text(json.dumps(rules))
    return str(file)


async def test_engine_goes_live_and_comes_back(operator: Operator, tmp_path: Path) -> None:
    """An upload leaves what is live alone; activating and falling back do not."""
    await operator.admin("engines", "upload", _rules(tmp_path, "calm"))
    uploaded = await operator.read("models", "upload", _rules(tmp_path, "calmer"), "--name", "C")
    before = await operator.read("engines", "show")
    await operator.admin("models", "activate", uploaded["session_id"])
    after = await operator.read("models", "list")
    await operator.admin("models", "fallback", "--yes")

    assert before["engine"]["name"] == "calm"
    assert {s["name"]: (s["live"], s["fallback"]) for s in after["sessions"]} == {
        "C": (True, False),
        "calm": (False, True),
    }
    assert re.search(r"^name +calm$", await operator.admin("engines", "show"), re.MULTILINE)


async def test_file_that_is_no_engine_is_refused(operator: Operator, tmp_path: Path) -> None:
    """With the reason, like every refusal; a file that is not there is never sent."""
    path = tmp_path / "engine.py"
    path.write_text("import os")

    refused = await operator.run("admin", "engines", "upload", str(path))
    absent = await operator.run("admin", "engines", "upload", str(tmp_path / "none.onnx"))

    assert (refused.status, absent.status) == (1, 2)
    assert refused.err.startswith("error: UNSUPPORTED_MODEL_FORMAT: ")


async def test_agent_is_disabled_and_switched_by_hand(operator: Operator, world: World) -> None:
    """The order is in the ledger until it is cancelled; a disabled agent takes none."""
    await world.start()
    await operator.admin("agents", "disable", "web")
    held = await operator.run("admin", "switch", "i-old", "--pool", POOLS[1], "--yes")
    await operator.admin("agents", "enable", "web")
    ordered = await operator.read("switch", "i-old", "--pool", POOLS[1], "--yes")
    cancelled = await operator.read("commands", "cancel", "web", ordered["command_id"])

    assert held.status == 1
    assert "AGENT_DISABLED" in held.err
    assert cancelled["status"] == "cancelled"


async def test_zombie_ends_with_consent_only(operator: Operator, world: World) -> None:
    """Naming it is the consent; a rehearsal gives none."""
    agent_id = await world.start()
    await world.configure(agent_id, auto_terminate_enabled=False)
    await world.report(agent_id)
    listed = await operator.admin("instances", "list", "--status", "terminated")
    await operator.admin("instances", "terminate", "i-old", "--dry-run")
    before = await operator.read("instances", "zombies", "web")
    await operator.admin("instances", "terminate", "i-old", "--yes")
    after = await operator.admin("instances", "zombies", "web")

    assert re.search(r"^i-old .* zombie ", listed, re.MULTILINE)
    assert before["instances"] == []
    assert re.search(r"^i-old ", after, re.MULTILINE)


async def test_serving_instance_is_not_ended(operator: Operator, world: World) -> None:
    """The row says why, and the status that something could not be done."""
    await world.start()

    done = await operator.run("admin", "instances", "terminate", "i-old", "--yes")

    assert done.status == 1
    assert "i-old" in done.out
    assert done.err == "error: 1 of 1 could not be done\n"


async def test_client_gets_a_token_and_another_one(operator: Operator) -> None:
    """The old one ends at once when nothing else is said."""
    made = await operator.read("clients", "create", "Acme")
    rotated = await operator.read("clients", "rotate", made["id"], "--grace", "0", "--yes")

    async def calls_with(token: str) -> int:
        done = await operator.run("call", "SavingsService.GetSavings", "--key", token)
        return done.status

    assert await calls_with(made["token"]) == 1
    assert await calls_with(rotated["token"]) == 0
    assert "Acme" in await operator.admin("clients", "list")


async def test_market_and_money_are_printed_in_dollars(operator: Operator, world: World) -> None:
    """The JSON keeps the exact integers."""
    await world.start()
    async with world.plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute(PUT_CLEAN_PRICE, POOLS[1], bucket(world.clock.now()))
    offers = await operator.admin("pools", "prices", "i-old")
    exact = await operator.read("pools", "prices", "i-old")

    assert re.search(rf"^{POOLS[1]} +us-east-1b +0\.015000 ", offers, re.MULTILINE)
    assert exact["offers"][0]["price_nanousd"] == "15000000"
    assert re.search(r"^us-east-1 +3 ", await operator.admin("pools", "statistics"), re.MULTILINE)


async def test_what_happened_is_listed(operator: Operator, world: World) -> None:
    """Switches, emergencies and savings of a tenant."""
    agent_id = await world.start()
    await world.report(agent_id)
    await operator.admin("notice", "web")

    switches = await operator.read("switches", world.tenant.id)
    emergencies = await operator.admin("emergencies", "list")
    state = await operator.read("emergencies", "show", "web")
    downtime = await operator.read("savings", "downtime", world.tenant.id)

    assert [s["new_instance_id"] for s in switches["switches"]] == ["i-new"]
    assert "termination" in emergencies
    assert state["emergency_mode_active"] is True
    assert downtime["switch_count"] == "1"
    assert "periods" in await operator.read("savings", "show", world.tenant.id)


async def test_nodes_are_ordered_shown_and_ended(operator: Operator, plane: Plane) -> None:
    """By name; the log says what happened."""
    await Nodes(plane).furnish()
    made = await operator.read(
        *["nodes", "launch", "aws", "us-east-1", "llama-3-8b", "--gpu", "A10G"]
    )
    name = made["cluster_name"]
    [node] = (await operator.read("nodes", "list", "--status", "launching"))["data"]
    assert (node["cluster_name"], node["model"]) == (name, "llama-3-8b")
    ended = await operator.read("nodes", "terminate", name, "--yes")
    assert ended["status"] == "terminating"
    assert (await operator.read("nodes", "get", name))["status"] == "dead"
    assert "has ended" in await operator.admin("nodes", "logs", name, "--follow")
