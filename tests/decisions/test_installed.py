"""Engines that an operator installs: found by their entry point, refused before anything serves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from spotplane_server.decisions.circuit_breaker import Judge
from spotplane_server.decisions.engine_registry import base_seat
from spotplane_server.decisions.engine_runners import Elsewhere, InThread
from spotplane_server.decisions.engines.installed import EngineMissing

from tests.decisions.markets import NOW, TYPE, pool, snapshot
from tests.support.plane import config, running

CODE = """
from spotplane_server.decisions import candidates

class Engine:
    name, version, hedges = "ours", "7", False

    def decide(self, snapshot):
        return candidates.switch(snapshot, snapshot.pools[-1], 0.9, "last", "savings")

def broken():
    raise RuntimeError("no licence")
"""
ENTRY_POINTS = """
[spotplane.engines]
ours = engine_of_an_operator:Engine
broken = engine_of_an_operator:broken
nothing = engine_of_an_operator:places
"""


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """A distribution beside the product."""
    (tmp_path / "engine_of_an_operator.py").write_text(CODE, "utf-8")
    metadata = tmp_path / "engine_of_an_operator-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: engine-of-an-operator\nVersion: 1\n", "utf-8")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS, "utf-8")
    sys.path.insert(0, str(tmp_path))
    yield
    sys.path.remove(str(tmp_path))
    sys.modules.pop("engine_of_an_operator", None)


@pytest.mark.usefixtures("installed")
async def test_an_installed_engine_decides_under_its_name() -> None:
    """Like any other."""
    judge = Judge()
    judge.put(base_seat("ours"))
    market = snapshot(pool("a", 0.4), pool("b", 0.3))
    (judged,) = await judge.decide([market], NOW)
    assert (judged.engine, judged.version) == ("ours", "7")
    assert judged.decision.target_pool_id == f"{TYPE}.b"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["broken", "nothing", "nowhere"])
async def test_a_server_does_not_start_with_an_engine_that_is_none(
    database_url: str, name: str
) -> None:
    """It says so, instead of deciding by another one."""
    with pytest.raises(EngineMissing, match=name):
        async with running(database_url, decision_engine=name):
            pass


def test_the_setting_names_any_kind_of_engine() -> None:
    """Built in, or at an address."""
    kinds = {name: base_seat(name).kind for name in ("rules", "risk", "hedge")}
    assert kinds == {"rules": "rules", "risk": "built_in", "hedge": "built_in"}
    assert isinstance(base_seat("risk"), InThread)
    assert isinstance(base_seat("grpc://engine:1"), Elsewhere)
    assert config("postgres://").decision_engine == "rules"
