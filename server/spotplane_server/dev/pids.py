"""Processes of one data directory, kept in a file, so that none outlives its owner."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Final, NamedTuple

_GRACE_SECONDS: Final = 8.0
_POLL_SECONDS: Final = 0.02


class Process(NamedTuple):
    """A process that is told from a later one with the same number by when it started.

    PostgreSQL shuts down at SIGINT, and at SIGTERM only once everybody has left.
    """

    name: str
    pid: int
    started: int
    sign: int = signal.SIGTERM

    def alive(self) -> bool:
        """Whether it still runs."""
        return start_of(self.pid) == self.started

    def send(self, sign: int) -> None:
        """Send a signal, unless it is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, sign)


def start_of(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None if there is none, or a zombie.

    Source: proc(5), `/proc/PID/stat`, fields 3 and 22.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, which may contain anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def of(name: str, pid: int, sign: int = signal.SIGTERM) -> Process | None:
    """Name a running process; None if it is gone already."""
    started = start_of(pid)
    return None if started is None else Process(name, pid, started, sign)


class PidFile:
    """The list, in the order in which they are to end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Process]:
        """Whom the file names, dead or alive; empty without a file."""
        try:
            return [Process(*entry) for entry in json.loads(self.path.read_text("utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def write(self, processes: list[Process]) -> None:
        """Replace the list in one step."""
        staged = self.path.with_suffix(".new")
        staged.write_text(json.dumps(processes), encoding="utf-8")
        staged.replace(self.path)

    def clear(self) -> None:
        """Forget everybody."""
        self.path.unlink(missing_ok=True)

    def end_all(self) -> list[str]:
        """End whoever is left, politely and then not; answer their names."""
        left = [process for process in self.read() if process.alive()]
        for process in left:
            process.send(process.sign)
        deadline = time.monotonic() + _GRACE_SECONDS
        while any(process.alive() for process in left):
            if time.monotonic() > deadline:
                for process in left:
                    process.send(signal.SIGKILL)
                break
            time.sleep(_POLL_SECONDS)
        self.clear()
        return [process.name for process in left]
