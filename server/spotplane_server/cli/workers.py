"""Several server processes on one port: started by spawning, and started again when they die."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_PR_SET_PDEATHSIG: Final = 1
# A worker that lasted this long had started well, so its end is news and not the rule.
_SETTLED_SECONDS: Final = 30.0
_MAX_DELAY_SECONDS: Final = 30.0
_MISUSED: Final = 2


def run(count: int, admin_port: int) -> int:
    """Keep ``count`` workers running until SIGTERM or SIGINT; answer the exit status.

    They are new programs and not forks: gRPC does not survive a fork.
    """
    return asyncio.run(_Supervisor(admin_port).run(count))


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before we could ask
        sys.exit(1)


class _Supervisor:
    def __init__(self, admin_port: int) -> None:
        self._admin_port = admin_port
        self._stop = asyncio.Event()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._status = 0

    async def run(self, count: int) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        await asyncio.gather(*(self._keep(index) for index in range(count)))
        return self._status

    def _end(self) -> None:
        self._stop.set()
        for process in self._processes.values():
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)

    async def _keep(self, index: int) -> None:
        failures = 0
        while not self._stop.is_set():
            started = time.monotonic()
            status = await self._once(index)
            if self._stop.is_set():
                return
            if status == _MISUSED:  # its settings are bad, and will be the next time
                self._status = status
                self._end()
                return
            failures = 0 if time.monotonic() - started > _SETTLED_SECONDS else failures + 1
            delay = min(_MAX_DELAY_SECONDS, 0.1 * 2.0**failures)
            log.warning("worker_died", worker=index, status=status, restart_in_seconds=delay)
            try:
                await asyncio.wait_for(self._stop.wait(), delay)
            except TimeoutError:
                continue

    async def _once(self, index: int) -> int:
        command = [sys.executable, "-m", "spotplane_server.cli", "server"]
        environment = dict(os.environ)
        if self._admin_port:
            environment["SPOTPLANE_ADMIN_PORT"] = str(self._admin_port + index)
        process = await asyncio.create_subprocess_exec(
            *command,
            *("--parent", str(os.getpid())),
            env=environment,
            # Ctrl-C is the supervisor's to handle; a worker that got it too would stop twice.
            start_new_session=True,
        )
        self._processes[index] = process
        if self._stop.is_set():  # asked to end while it was being started
            process.send_signal(signal.SIGTERM)
        log.info("worker_started", worker=index, pid=process.pid)
        return await process.wait()
