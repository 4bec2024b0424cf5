"""Uploaded engines: checked, tried in shadow, live everywhere without a restart, and undone."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from spotplane.v1 import decision_pb2 as pb
from spotplane_server.decisions.jobs import SessionRetention
from spotplane_server.decisions.module import engine_works

from tests.decisions import models
from tests.decisions.test_cel import rule, rule_set
from tests.decisions.world import B, Engines, World
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.plane import refused, running

CALM = rule_set(rule("false"), name="calm")
EAGER = rule_set(rule("true", target="cheapest", confidence=0.9), name="eager")
FAILING = rule_set(rule("1 / (limits.max_switches_per_day - 3) == 1"), name="failing")


async def asked(world: World) -> str:
    """Let there be one stored question, which the live engine answers with `stay`."""
    await world.market(0.5, 0.49)
    agent_id, _ = await world.agent()
    await world.loop()
    assert len(await world.decisions(agent_id)) == 1
    return agent_id


async def test_a_model_waits_for_its_activation(world: World, engines: Engines) -> None:
    """Its upload touches nothing; then it decides, under its own name."""
    await world.market(0.5, 0.3)
    agent_id, _ = await world.agent()
    session_id = await engines.upload_model(
        ("cheap.onnx", models.linear(confidence=0.9, price=-1)), model_name="cheap"
    )
    (session,) = await engines.sessions()
    assert (session.status, session.live, session.kind) == ("uploaded", False, "model")
    assert (await world.recommend(agent_id)).engine == "rules"

    status = await engines.activate(session_id)

    assert (status.loaded, status.type, status.model) == (True, "onnx", True)
    said = await world.recommend(agent_id)
    assert (said.engine, said.recommended_pool_id) == ("cheap", B)
    await world.loop()
    (row,) = await world.decisions(agent_id)
    assert (row["engine"], str(row["session_id"])) == ("cheap", session_id)
    for kind in ("ml_models.uploaded", "ml_models.activated"):
        (event,) = await world.events(kind)
        assert json.loads(event["data"])["session_id"] == session_id


async def test_an_engine_is_live_as_soon_as_it_is_uploaded(world: World, engines: Engines) -> None:
    """The one before becomes its fallback, and the one before that is archived."""
    first = (await engines.upload_engine(("a.json", CALM))).session_id
    second = (await engines.upload_engine(("b.json", EAGER))).session_id
    done = await engines.upload_engine(("c.onnx", models.linear(price=-1)))
    assert done.engine.type == "onnx"
    states = {s.id: (s.status, s.live, s.fallback) for s in await engines.sessions()}
    assert states == {
        first: ("archived", False, False),
        second: ("active", False, True),
        done.session_id: ("active", True, False),
    }
    assert len(await world.events("decision_engine.updated")) == 3


async def test_fallback_swaps_and_swaps_back(world: World, engines: Engines) -> None:
    """As often as one likes."""
    async with refused("SESSION_NOT_FOUND"):
        await engines.fall_back()
    first = (await engines.upload_engine(("a.json", CALM))).session_id
    async with refused("SESSION_NOT_FOUND"):
        await engines.fall_back()
    second = (await engines.upload_engine(("b.json", EAGER))).session_id
    for expected, name in ((first, "calm"), (second, "eager"), (first, "calm")):
        swapped = await engines.fall_back()
        assert (swapped.session_id, swapped.engine.name) == (expected, name)
    assert len(await world.events("ml_models.rollback")) == 3


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("model.pkl", b"\x80\x04anything", "UNSUPPORTED_MODEL_FORMAT"),
        ("model.onnx", b"\x80\x04anything", "UNSUPPORTED_MODEL_FORMAT"),
        ("model.onnx", b"PK\x03\x04 of torch", "UNSUPPORTED_MODEL_FORMAT"),
        ("model.pt", models.linear(price=-1), "UNSUPPORTED_MODEL_FORMAT"),
        ("model", models.linear(price=-1), "UNSUPPORTED_MODEL_FORMAT"),
        ("engine.py", b"import os", "UNSUPPORTED_MODEL_FORMAT"),
        ("rules.json", b"import os", "UNSUPPORTED_MODEL_FORMAT"),
        ("rules.onnx", CALM, "UNSUPPORTED_MODEL_FORMAT"),
        ("model.onnx", b"no model", "MODEL_INVALID"),
        ("model.onnx", models.custom(), "MODEL_INVALID"),
        ("model.onnx", models.external(), "MODEL_INVALID"),
        ("model.onnx", models.reading("etc/passwd"), "MODEL_INVALID"),
        ("rules.json", rule_set(rule("no.such.thing")), "MODEL_INVALID"),
    ],
)
async def test_what_is_no_engine_is_refused_by_its_content(
    world: World, engines: Engines, name: str, data: bytes, reason: str
) -> None:
    """With what to do instead, and without touching what is live."""
    await engines.upload_engine(("calm.json", CALM))
    async with refused(reason):
        await engines.upload_engine((name, data))
    async with refused(reason):
        await engines.upload_model((name, data))
    assert (await engines.status()).engine.name == "calm"
    assert len(await engines.sessions()) == 1


async def test_an_upload_has_files_with_names_of_their_own(world: World, engines: Engines) -> None:
    """A path of the uploader's machine is nothing here."""
    async with refused("MISSING_FIELD"):
        await engines.upload_model()
    async with refused("INVALID_FIELD"):
        await engines.upload_model(("a/x.json", CALM), ("b/x.json", EAGER))
    await engines.upload_model(("../../etc/x.json", CALM))
    (session,) = await engines.sessions()
    assert [file.name for file in session.files] == ["x.json"]


async def test_the_first_file_that_would_not_stay_decides(world: World, engines: Engines) -> None:
    """Rules before a model, in the order of their upload."""
    await world.market(0.5, 0.3, 0.4)
    agent_id, _ = await world.agent()
    await engines.upload_engine(("guard.json", CALM), ("model.onnx", models.linear(price=-1)))
    assert (await world.recommend(agent_id)).recommended_pool_id == B


async def test_equal_content_is_kept_once(world: World, engines: Engines) -> None:
    """Whatever the files are called; each session has its own."""
    data = models.linear(price=-1)
    await engines.upload_model(("a.onnx", data))
    await engines.upload_model(("b.onnx", data))
    assert len(await world.owner("SELECT FROM engine_files")) == 1
    one, two = await engines.sessions()
    assert one.files[0].sha256 == two.files[0].sha256
    assert {one.files[0].name, two.files[0].name} == {"a.onnx", "b.onnx"}


async def test_an_engine_that_fails_in_shadow_does_not_become_live(
    world: World, engines: Engines
) -> None:
    """Force does not help; the result is kept."""
    await asked(world)
    session_id = await engines.upload_model(("failing.json", FAILING))
    for force in (False, True):
        async with refused("SHADOW_FAILED"):
            await engines.activate(session_id, force=force)
    (session,) = await engines.sessions()
    assert (session.status, session.shadow.evaluated, session.shadow.errors) == ("uploaded", 1, 1)
    assert (await engines.status()).engine.name == "rules"


async def test_an_engine_that_switches_far_more_often_needs_force(
    world: World, engines: Engines
) -> None:
    """Three times the live engine's rate is allowed, more is not."""
    agent_id = await asked(world)
    session_id = await engines.upload_model(("eager.json", EAGER))
    async with refused("SHADOW_FAILED"):
        await engines.activate(session_id)
    status = await engines.activate(session_id, force=True)
    assert status.name == "eager"
    (session,) = await engines.sessions()
    shadow = session.shadow
    assert (shadow.evaluated, shadow.errors, shadow.agreement) == (1, 0, 0.0)
    assert (shadow.switch_rate, shadow.live_switch_rate) == (1.0, 0.0)
    assert 0 < shadow.p95_ms < 500
    # Nothing came of it but the result.
    assert await world.switches(agent_id) == []


async def test_an_engine_that_agrees_passes_shadow(world: World, engines: Engines) -> None:
    """And says so."""
    await asked(world)
    await engines.activate(await engines.upload_model(("calm.json", CALM)))
    (session,) = await engines.sessions()
    assert (session.live, session.shadow.agreement) == (True, 1.0)


async def test_every_server_has_the_engine_that_is_live(
    world: World, engines: Engines, clock: FakeClock
) -> None:
    """Within seconds, without a restart; and a server that starts later too."""
    async with running(world.plane.database_url, clock) as other:
        theirs = Engines(other)

        async def decides(name: str) -> bool:
            return (await theirs.status()).engine.name == name

        assert await decides("rules")
        await engines.upload_engine(("calm.json", CALM))
        assert await eventually(lambda: decides("calm"), within=10)
        await theirs.upload_engine(("eager.json", EAGER))
        assert await eventually(lambda: decides("eager"), within=10)
        assert (await engines.fall_back()).engine.name == "calm"
        assert await eventually(lambda: decides("calm"), within=10)
    async with running(world.plane.database_url, clock) as later:

        async def too() -> bool:
            return (await Engines(later).status()).engine.name == "calm"

        assert await eventually(too, within=10)


async def test_a_session_that_does_not_load_somewhere_is_rolled_back(
    world: World, engines: Engines, clock: FakeClock
) -> None:
    """Its content was damaged after its activation: the fallback decides again."""
    await engines.upload_engine(("calm.json", CALM))
    bad = (await engines.upload_engine(("eager.json", EAGER))).session_id
    await world.owner(
        "UPDATE engine_file_chunks SET data = 'x' WHERE sha256 ="
        " (SELECT sha256 FROM engine_session_files WHERE session_id = $1)",
        bad,
    )
    async with running(world.plane.database_url, clock):

        async def back() -> bool:
            return (await engines.status()).engine.name == "calm"

        assert await eventually(back, within=20)
    session = next(s for s in await engines.sessions() if s.id == bad)
    assert (session.status, session.live) == ("archived", False)
    assert session.fault


async def test_an_engine_that_fails_is_stood_in_for_and_told_once(
    world: World, engines: Engines
) -> None:
    """Agents stay; the status says so until it decides again."""
    await engines.upload_engine(("failing.json", FAILING))
    agent_id = await asked(world)
    for _ in range(3):
        await world.loop()
    (row, *_) = await world.decisions(agent_id)
    assert (row["action"], row["active_fallback"], row["engine"]) == ("stay", True, "rules")
    assert len(await world.events("decision.error")) == 1
    status = (await engines.status()).engine
    assert (status.loaded, status.active_fallback) == (False, True)
    assert not await engine_works(world.plane.db)

    await engines.upload_engine(("calm.json", CALM))
    await world.loop()
    assert (await engines.status()).engine.loaded
    assert await engine_works(world.plane.db)


async def test_sessions_without_a_role_are_forgotten_after_a_month(
    world: World, engines: Engines, clock: FakeClock
) -> None:
    """But the newest uploaded one, and what the others share."""
    shared = models.linear(price=-1)
    await engines.upload_engine(("a.json", CALM))
    live = (await engines.upload_engine(("live.onnx", shared))).session_id
    await engines.upload_model(("old.onnx", shared))
    await engines.upload_model(("other.json", EAGER))
    newest = await engines.upload_model(("new.json", rule_set(rule("true"), name="new")))
    job = SessionRetention(world.plane.db)

    assert await job.run_once(clock.now()) == 0
    clock.advance(timedelta(days=31))
    assert await job.run_once(clock.now()) == 2

    left = {session.id for session in await engines.sessions()}
    assert {live, newest} <= left
    assert len(left) == 3
    assert len(await world.owner("SELECT FROM engine_files")) == 3


async def test_only_administrators_see_and_change_engines(world: World) -> None:
    """A tenant's key is no credential for it."""
    stub: Any = world.stub
    for call, request in (
        (stub.ListSessions, pb.ListSessionsRequest()),
        (stub.ActivateFallback, pb.ActivateFallbackRequest()),
        (stub.GetEngineStatus, pb.GetEngineStatusRequest()),
    ):
        async with refused("ADMIN_TOKEN_MISSING"):
            await call(request, metadata=world.hand.metadata)


async def test_what_the_plane_does_with_engines_is_audited(world: World, engines: Engines) -> None:
    """Upload, activation, fallback: who, what, and which contents."""
    await engines.upload_engine(("a.json", CALM))
    await engines.upload_engine(("b.json", EAGER))
    await engines.fall_back()
    rows = await world.owner(
        "SELECT action FROM audit_logs WHERE resource_type = 'engine_session'"
        " ORDER BY occurred_at, action DESC"
    )
    assert [row["action"].split(".")[1] for row in rows] == [
        "upload",
        "activate",
        "upload",
        "activate",
        "fallback",
    ]
