"""Variables that nothing reads are reported, so that a misspelt setting is noticed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from spotplane_server.cli.environment import find_unknown, known_settings

from tests.support.command import spotplane

ROOT = Path(__file__).parents[2]


def test_every_documented_setting_is_known() -> None:
    pages = [ROOT / "docs" / "operations.md", ROOT / "envoy" / "README.md"]
    text = "".join(page.read_text() for page in pages)
    named = set(re.findall(r"SPOTPLANE_[A-Z_]*[A-Z]", text))
    assert len(named) > 50
    assert not find_unknown(dict.fromkeys(named, ""))


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("SPOTPLANE_DATABASE_URI", "SPOTPLANE_DATABASE_URL"),
        ("SPOTPLANE_TRUSTED_PROXY", "SPOTPLANE_TRUSTED_PROXIES"),
        ("SPOTPLANE_QQQQQ", None),
    ],
)
def test_an_unknown_setting_is_found_with_the_one_that_was_meant(
    name: str, suggestion: str | None
) -> None:
    (found,) = find_unknown({name: "1", "SPOTPLANE_PORT": "1", "PATH": ""})
    assert (found.name, found.suggestion) == (name, suggestion)


@pytest.mark.parametrize(
    "name",
    [
        "SPOTPLANE_DATABASE_URL_FILE",
        "SPOTPLANE_API_KEY_FILE",
        "SPOTPLANE_SERVICE_HOST",
        "SPOTPLANE_BRIDGE_SERVICE_PORT_HTTP",
        "SPOTPLANE_PORT_50051_TCP_ADDR",
    ],
)
def test_files_and_kubernetes_links_are_no_unknown_settings(name: str) -> None:
    assert not find_unknown({name: "1"})


def test_settings_of_all_processes_are_known_to_each() -> None:
    assert {
        "SPOTPLANE_DATABASE_URL",
        "SPOTPLANE_BRIDGE_PORT",
        "SPOTPLANE_EDGE_LISTEN",
        "SPOTPLANE_API_KEY",
    } <= known_settings()


@pytest.mark.parametrize("command", ["server", "bridge"])
async def test_processes_log_unknown_settings(command: str) -> None:
    """In the form of their logs; both end here because they cannot start."""
    done = await spotplane(
        command,
        SPOTPLANE_DATABASE_URL="postgresql://127.0.0.1:1/none",
        SPOTPLANE_BRIDGE_HOST="192.0.2.1",
        SPOTPLANE_HEARTBEAT_SECOND="5",
    )
    line = json.loads(done.err.splitlines()[0])
    assert line["event"] == "unknown_setting"
    assert line["setting"] == "SPOTPLANE_HEARTBEAT_SECOND"
    assert line["suggestion"] == "SPOTPLANE_HEARTBEAT_SECONDS"


@pytest.mark.parametrize("command", [("migrate",), ("agent",), ("envoy", "--help")])
async def test_commands_print_unknown_settings(command: tuple[str, ...]) -> None:
    done = await spotplane(
        *command,
        SPOTPLANE_DATABASE_URL="postgresql://127.0.0.1:1/none",
        SPOTPLANE_API_KY="x",
    )
    warning = "warning: SPOTPLANE_API_KY is not a known setting; did you mean SPOTPLANE_API_KEY?"
    assert warning in done.err.splitlines()
