"""How `spotplane dev` ends, and comes back."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.dev.conftest import development
from tests.support.command import spotplane
from tests.support.eventually import eventually

# Whole stacks come up twice; on a machine that is busy otherwise that alone takes a while.
pytestmark = pytest.mark.timeout(120)


async def test_ctrl_c_ends_every_child_and_the_data_stay(tmp_path: Path) -> None:
    """Nothing runs on, and the next run has the same tenants, token and keys."""
    with development(tmp_path, "--agents", "2") as first:
        children = first.children()
        assert first.end(signal.SIGINT) == 0
        assert not [child.name for child in children if child.alive()]
        assert not (tmp_path / "dev.json").exists()
        assert "Traceback" not in first.text

    with development(tmp_path, "--agents", "2") as second:
        assert second.said["tenants"] == first.said["tenants"]
        assert second.said["admin_token"] == first.said["admin_token"]
    assert {child.name for child in children} == {
        "fleet",
        "envoy",
        "bridge",
        "server",
        "postgres",
    }


async def test_children_end_when_it_is_killed(tmp_path: Path) -> None:
    """Kill -9 leaves nobody behind."""
    with development(tmp_path, "--agents", "2") as run:
        children = run.children()
        run.end(signal.SIGKILL)

        await eventually(lambda: not [child for child in children if child.alive()])


async def test_it_starts_again_when_even_its_watchdog_was_killed(tmp_path: Path) -> None:
    """What a lost run left behind is ended first, by number and start, and PostgreSQL recovers."""
    with development(tmp_path, "--agents", "2") as first:
        children = first.children()
        os.killpg(_watchdog(first.process.pid), signal.SIGKILL)
        first.end(signal.SIGKILL)
        with development(tmp_path, "--agents", "2") as second:
            assert "left behind" in second.text
            assert not [child for child in children if child.alive()]
            assert second.said["tenants"] == first.said["tenants"]


async def test_dead_server_is_started_again(tmp_path: Path) -> None:
    """The plane comes back on its old port by itself."""
    with development(tmp_path, "--no-demo") as run:
        (server,) = [child for child in run.children() if child.name == "server"]
        server.send(signal.SIGKILL)

        async def answers() -> bool:
            done = await spotplane(
                "admin", "--data-dir", str(tmp_path), "regions", "list", "--json"
            )
            return done.status == 0 and bool(json.loads(done.out)["data"])

        await eventually(lambda: "server died" in run.text)
        await eventually(answers, within=20, every=0.2)


async def test_empty_plane_has_a_catalogue_and_nobody(tmp_path: Path) -> None:
    """`--no-demo` is a plane to work with, not a show."""
    with development(tmp_path, "--no-demo") as run:
        listed = await spotplane("admin", "--data-dir", str(tmp_path), "tenants", "list", "--json")
        assert json.loads(listed.out)["data"] == []
        assert run.said["tenants"] == []
        assert "fleet" not in {child.name for child in run.children()}


def _watchdog(pid: int) -> int:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    for child in text.split():
        if b"watchdog" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("there is no watchdog")
