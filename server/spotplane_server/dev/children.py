"""Child processes: started, watched, started again when they die, and ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from spotplane_server.dev import pids
from spotplane_server.dev.pids import PidFile, Process

STOP_SECONDS: Final = 8.0


class StackError(Exception):
    """The stack cannot be brought up; the text says why and what to do."""


class DataDir:
    """A data directory that this process alone uses.

    Raises:
        StackError: Another process uses it, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            self._lock = (path / "lock").open("a+", encoding="utf-8")
        except OSError as err:
            raise StackError(f"the data directory cannot be used: {err}") from err
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "?"
            raise StackError(
                f"`spotplane dev` already runs on {path} (process {holder}); "
                "stop it, or choose another --data-dir"
            ) from err
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self.pids = PidFile(path / "pids.json")

    @property
    def logs(self) -> Path:
        """Where the children's logs are."""
        return self.path / "logs"

    def log(self, name: str) -> Path:
        """The log of one child."""
        return self.logs / f"{name}.log"

    def write_secret(self, name: str, text: str) -> Path:
        """Write a file that only its owner may read, in one step."""
        path, staged = self.path / name, self.path / f".{name}.new"
        with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        staged.replace(path)
        return path


class Children:
    """Every process that belongs to the stack, in the order in which they are to end."""

    _ORDER: Final = ("fleet", "envoy", "bridge", "server", "postgres")

    def __init__(self, pid_file: PidFile) -> None:
        self._pid_file = pid_file
        self._processes: dict[str, Process] = {}
        # It must not die of the terminal's Ctrl-C, or nobody is left to clean up after us.
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "spotplane_server.dev.watchdog", str(pid_file.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def note(self, name: str, pid: int, sign: int = signal.SIGTERM) -> None:
        """Put a process on the list."""
        process = pids.of(name, pid, sign)
        if process is not None:
            self._processes[name] = process
            self._pid_file.write(sorted(self._processes.values(), key=self._rank))

    def close(self) -> None:
        """Clear the list, and let the watchdog go."""
        self._pid_file.clear()
        self._watchdog.communicate()

    def _rank(self, process: Process) -> int:
        return self._ORDER.index(process.name)


class Child:
    """One of our own programs, kept running.

    Args:
        children: The list it goes on.
        name: Of the process and its log.
        arguments: For the Python interpreter.
        environment: Added to our own.
        log_path: Receives what it prints, appended.
        died: Told that it died by itself and is started again.
    """

    def __init__(
        self,
        children: Children,
        name: str,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        log_path: Path,
        died: Callable[[str, int], None],
    ) -> None:
        self.name = name
        self._children = children
        self._arguments = arguments
        self._environment = dict(os.environ) | dict(environment)
        self._log_path = log_path
        self._died = died
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, **environment: str) -> None:
        """Start it, and from then on start it again whenever it dies."""
        self._environment |= environment
        self._process = await self._spawn()
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End it: politely, then not."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._process is not None:
            await end(self._process)

    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    def last_lines(self, count: int = 8) -> str:
        """The end of its log."""
        text = self._log_path.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-count:])

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self._log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is ours to handle: we end them in order.
                start_new_session=True,
            )
        self._children.note(self.name, process.pid)
        return process

    async def _keep(self) -> None:
        while self._process is not None:
            status = await self._process.wait()
            self._died(self.name, status)
            await asyncio.sleep(0.5)
            self._process = await self._spawn()


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process, by force if it does not follow."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def until(ready: Callable[[], Awaitable[Any]], child: Child, *, within: float = 30.0) -> None:
    """Wait until a child answers.

    Raises:
        StackError: It died or took too long; with the end of its log.
    """
    deadline = asyncio.get_running_loop().time() + within
    while not await ready():
        if not child.running() or asyncio.get_running_loop().time() > deadline:
            raise StackError(f"{child.name} did not come up:\n{child.last_lines()}")
        await asyncio.sleep(0.03)


def claim_port(port: int, option: str) -> int:
    """The port, or a free one for 0.

    Raises:
        StackError: Somebody listens there. A server that shares its port would not notice.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as err:
            raise StackError(
                f"port {port} is taken; {option} chooses another, 0 a free one"
            ) from err
        return int(probe.getsockname()[1])
