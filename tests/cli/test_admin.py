"""`spotplane admin`: what an operator does by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.cli.conftest import Operator
from tests.support.eventually import eventually
from tests.support.fleet import Calls, simulated
from tests.support.plane import Plane


async def test_tenant_is_made_suspended_activated_and_deleted(operator: Operator) -> None:
    """The whole life of a tenant, each step read back from the next answer."""
    made = await operator.read("tenants", "create", "Acme", "ops@acme.example")
    suspended = await operator.read("tenants", "suspend", made["id"], "--reason", "unpaid")
    active = await operator.read("tenants", "activate", made["id"])
    await operator.admin("tenants", "delete", made["id"], "--yes")

    assert suspended["tenant"]["status"] == "suspended"
    assert active["tenant"]["status"] == "active"
    assert (await operator.read("tenants", "show", made["id"]))["status"] == "deleted"


async def test_key_is_shown_once_rotated_and_revoked(operator: Operator, plane: Plane) -> None:
    """The secret is in the answer of its creation and in no later one."""
    tenant = await plane.tenant()
    made = await operator.read("keys", "create", tenant.id, "--name", "ci", "--role", "developer")
    rotated = await operator.read("keys", "rotate", made["id"], "--grace", "0")
    await operator.admin("keys", "revoke", rotated["id"], "--yes")

    listed = await operator.admin("keys", "list", tenant.id)
    assert made["key"].startswith("sp_live_")
    assert made["key"] not in listed
    assert "revoked" in listed


async def test_list_is_a_table_whose_rows_stay_whole_in_a_pipe(operator: Operator) -> None:
    """One line for each row, whatever its width, so that grep and awk can be used."""
    name = "A tenant with a name that no terminal of eighty columns has any room for"
    await operator.admin("tenants", "create", name, "long@example.com")

    listed = await operator.admin("tenants", "list")

    assert any(name in line and "long@example.com" in line for line in listed.splitlines())


async def test_refusal_is_one_line_with_its_reason(operator: Operator) -> None:
    """Scripts see status 1, people see why, and nobody sees a traceback."""
    done = await operator.run("admin", "tenants", "show", "00000000-0000-4000-8000-000000000000")

    assert (done.status, done.out) == (1, "")
    assert done.err == "error: TENANT_NOT_FOUND: tenant not found\n"


async def test_plane_that_is_away_is_one_line(operator: Operator) -> None:
    """No stack of gRPC's own words."""
    done = await operator.run("admin", "tenants", "list", SPOTPLANE_TARGET="127.0.0.1:1")

    assert done.status == 1
    assert re.fullmatch(r"error: UNAVAILABLE: .*\n", done.err)


async def test_deletion_asks_unless_told(operator: Operator, plane: Plane) -> None:
    """Without an answer nothing is deleted."""
    tenant = await plane.tenant()

    done = await operator.run("admin", "tenants", "delete", tenant.id)

    assert done.status == 1
    assert (await operator.read("tenants", "show", tenant.id))["status"] == "active"


async def test_budget_is_made_raised_and_deleted_and_the_trail_tells(
    operator: Operator, plane: Plane
) -> None:
    """Each step can be read back, and who took it."""
    tenant = await plane.tenant()
    made = await operator.read(
        "budgets", "create", tenant.id, "May", "12.5", "--at", "90", "--hard-stop"
    )
    raised = await operator.read("budgets", "update", tenant.id, made["id"], "--limit-usd", "20")
    listed = await operator.admin("budgets", "list", tenant.id)
    await operator.admin("budgets", "delete", tenant.id, made["id"], "--yes")
    trail = await operator.admin("audit", "list", "--resource", "budget")
    last = (await operator.read("audit", "list", "--action", "budget.delete"))["data"][0]
    shown = await operator.read("audit", "show", last["id"])

    assert (made["limit_nanos"], made["alert_thresholds_pct"]) == ("12500000000", [90])
    assert (raised["limit_usd"], raised["hard_stop"]) == (20, True)
    assert re.search(r"May\s+month\s+ok\s", listed)
    assert [line.split()[3] for line in trail.splitlines()[1:]] == [
        "budget.delete",
        "budget.update",
        "budget.create",
    ]
    assert shown["before"]["limit_nanos"] == 20_000_000_000


async def test_catalogue_is_imported_and_listed(operator: Operator) -> None:
    """The shipped catalogue goes in whole; a second time nothing changes."""
    await operator.admin("catalog", "import")
    again = await operator.admin("catalog", "import")

    regions = await operator.read("regions", "list")
    types = await operator.read("instance-types", "list", "--provider", "aws")
    assert "us-east-1" in {region["code"] for region in regions["data"]}
    assert {"g5.xlarge", "p3.2xlarge"} <= {kind["instance_type"] for kind in types["data"]}
    assert re.search(r"models\s+0\s+0\s+5", again)


async def test_list_prices_are_imported_with_their_origin(operator: Operator) -> None:
    """Each provider's date and source are said; a file at the same time is one thing too many."""
    said = await operator.admin("catalog", "import", "--list-prices")
    both = await operator.run("admin", "catalog", "import", "some.json", "--list-prices")

    assert re.search(r"^azure, as of \d{4}-\d\d-\d\d: List prices .+https://", said, re.MULTILINE)
    assert both.status == 2


async def test_bad_catalogue_is_refused_where_it_is_bad(operator: Operator, tmp_path: Path) -> None:
    """The line names the entry and its member, and nothing was imported."""
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps({"models": [{"name": "m"}]}))

    done = await operator.run("admin", "catalog", "import", str(path))

    assert done.status == 1
    assert done.err.startswith("error: models[0].family: ")


async def test_token_opens_until_it_is_revoked(operator: Operator) -> None:
    """A credential made in the database works at once, and its end does too."""
    token = (await operator.admin("token", "create", "ci", "--scope", "admin:read")).strip()
    opened = await operator.run("admin", "tenants", "list", SPOTPLANE_ADMIN_TOKEN=token)
    narrow = await operator.run(
        "admin", "tenants", "create", "X", "x@example.com", SPOTPLANE_ADMIN_TOKEN=token
    )
    await operator.admin("token", "revoke", "ci")
    closed = await operator.run("admin", "tenants", "list", SPOTPLANE_ADMIN_TOKEN=token)

    assert opened.status == 0
    assert "SCOPE_FORBIDDEN" in narrow.err
    assert "ADMIN_TOKEN_INVALID" in closed.err
    assert "ci" in await operator.admin("token", "list")


async def test_token_has_networks_an_expiry_and_a_budget(operator: Operator) -> None:
    """Said when it is listed, and held when it is used."""
    rules = ("--cidr", "192.0.2.0/24", "--expires-at", "2099-01-31T00:00:00Z", "--rpm", "7")
    token = (await operator.admin("token", "create", "abroad", *rules)).strip()
    refused = await operator.run("admin", "tenants", "list", SPOTPLANE_ADMIN_TOKEN=token)
    listed = await operator.admin("token", "list")
    past = await operator.run("admin", "token", "create", "x", "--expires-at", "2020-01-01T00:00Z")
    wrong = await operator.run("admin", "token", "create", "x", "--cidr", "192.0.2.1/24")

    assert "IP_NOT_ALLOWED" in refused.err
    line = next(line for line in listed.splitlines() if "abroad" in line)
    assert all(text in line for text in ("192.0.2.0/24", "2099-01-31", " 7 "))
    assert (past.status, wrong.status) == (2, 2)


async def test_agent_is_found_by_name_commanded_and_failed_over(
    operator: Operator, plane: Plane, tmp_path: Path
) -> None:
    """A command's story and a failover's story can be read on the command line."""
    tenant = await plane.tenant()
    async with simulated(tmp_path / "cloud", plane.target, tenant) as fleet:
        instance = await fleet.start("chat")
        agent = instance.agent
        assert agent is not None
        agent.command("greet")(_greet)
        issued = await operator.read("commands", "issue", "chat", "greet", "--param", "name=Ada")
        await eventually(lambda: "completed" in _greeted)
        await agent.wait_drained()
        story = await operator.admin("commands", "show", "chat", issued["id"])

        await operator.admin("agents", "config", "chat", "--manual-replica")
        calls = Calls(plane.channel, tenant)
        replica = await calls.replica(issued["agent_id"], status="ready")
        notice = await operator.read("notice", "chat")
        failover = await operator.admin("failovers", "show", "chat", notice["id"])

    assert re.search(r"issued .*\n.*leased .*\n.*received", story)
    assert f"promoted {replica.instance_id} in" in failover


_greeted: list[str] = []


async def _greet(command: object) -> dict[str, str]:
    _greeted.append("completed")
    return {"hello": "Ada"}


async def test_events_are_printed_from_the_beginning(operator: Operator, plane: Plane) -> None:
    """Whatever happened is there, a line for each."""
    tenant = await plane.tenant()

    out = await operator.admin("events", "--type", "tenant.*", "--json")

    (event,) = [json.loads(line) for line in out.splitlines()]
    assert (event["event_type"], event["tenant_id"]) == ("tenant.created", tenant.id)
