"""`spotplane admin usage`: proving, mending, and what could not be stored."""

from __future__ import annotations

from typing import Any

import pytest
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from tests.cli.conftest import Operator
from tests.support.plane import Plane
from tests.usage.conftest import world as world  # noqa: PLC0414 - a fixture
from tests.usage.test_service import stream
from tests.usage.world import Owner, World, record


@pytest.fixture
async def owner(plane: Plane, world: World) -> Owner:
    """A tenant with one record stored, and one that could not be."""
    made = await world.tenant()
    usage: Any = plane.stub(usage_pb2_grpc.UsageServiceStub)
    sent: list[pb.UsageRecord] = [record("a", model="mistral-7b"), record("b", model="soon")]
    await usage.IngestUsage(stream([sent]), metadata=made.metadata)
    return made


async def test_wrong_sums_are_found_and_mended(
    operator: Operator, world: World, owner: Owner
) -> None:
    """`verify` says so by its status, `rebuild` mends, and then `verify` is content."""
    right = await operator.run("admin", "usage", "verify", str(owner.id))
    await world.conn.execute(
        "UPDATE usage_rollups SET cost_nanos = 7 WHERE tenant_id = $1 AND rollup = 'day'", owner.id
    )
    wrong = await operator.run("admin", "usage", "verify", str(owner.id))
    mended = await operator.read("usage", "rebuild", str(owner.id))
    after = await operator.run("admin", "usage", "verify", str(owner.id))

    assert [done.status for done in (right, wrong, after)] == [0, 1, 0]
    assert "usage rebuild" in wrong.err
    assert "every sum equals its raw records" in after.out
    assert int(mended["mended"]) == 2  # one row deleted, one written


async def test_usage_is_shown_in_groups(operator: Operator, owner: Owner) -> None:
    """As a table, by model."""
    shown = await operator.admin("usage", "show", str(owner.id))
    assert "mistral-7b" in shown


async def test_dead_letters_are_retried_and_discarded(
    operator: Operator, world: World, owner: Owner
) -> None:
    """Once the model is there it is stored; what is discarded is gone."""
    [letter] = (await operator.read("usage", "dead-letters", "list", str(owner.id)))["data"]
    refused = await operator.read("usage", "dead-letters", "retry", str(owner.id))
    await world.model("soon")
    stored = await operator.read("usage", "dead-letters", "retry", str(owner.id), letter["id"])
    gone = await operator.read(
        "usage", "dead-letters", "discard", str(owner.id), letter["id"], "--yes"
    )

    assert (letter["code"], letter["record"]["request_id"]) == ("UNKNOWN_MODEL", "b")
    assert (refused["accepted"], refused["rejected"]) == (0, 1)
    assert (stored["accepted"], int(stored["remaining"])) == (1, 0)
    assert gone["discarded"] == 0
