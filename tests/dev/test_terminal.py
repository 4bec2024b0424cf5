"""What `spotplane dev` does on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from spotplane_server.dev.pids import PidFile

from tests.dev.conftest import FREE_PORTS
from tests.support.command import COMMAND, environment

# A whole stack comes up; on a machine that is busy otherwise that alone takes a while.
pytestmark = pytest.mark.timeout(120)

# What a full screen shows; it may arrive in pieces.
PARTS = (
    "4 of 4 agents connected",
    "$0.0",
    "X-Admin-Token",
    "Aurora Labs",
    "through Envoy",
    "vision-01",
    "usage this hour",
)

# The size by name too: a test process may have inherited one.
_SCREEN = {"TERM": "xterm", "COLUMNS": "150", "LINES": "45"}
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A program on a terminal of its own, 150 columns by 45 rows."""

    def __init__(self, *command: str) -> None:
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            os.execve(command[0], command, environment(_SCREEN))
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 150, 0, 0))
        self.shown = b""

    def watch(self, wanted: Callable[[str], bool], *, within: float = 45.0) -> str:
        """Read until something is on the screen, or the program ends."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if select.select([self._terminal], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._terminal, 65536)
                except OSError:  # the program has ended
                    break
            if wanted(self.text):
                break
        return self.text

    @property
    def text(self) -> str:
        """Everything shown so far."""
        return _ESCAPES.sub(b"", self.shown).decode("utf-8", "replace")

    def type(self, keys: bytes) -> None:
        """Press keys; Ctrl-C reaches the whole foreground group, as from a keyboard."""
        os.write(self._terminal, keys)


def test_live_view_shows_the_plane_until_ctrl_c_ends_it(tmp_path: Path) -> None:
    """Addresses, tokens, agents and usage on one screen; the keyboard's Ctrl-C leaves nobody."""
    terminal = Terminal(*COMMAND, "dev", "--data-dir", str(tmp_path), "--agents", "4", *FREE_PORTS)
    screen = terminal.watch(lambda text: all(part in text for part in PARTS))
    children = PidFile(tmp_path / "pids.json").read()
    terminal.type(b"\x03")
    terminal.watch(lambda text: "the data stay in" in text)

    _, status = os.waitpid(terminal.pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0, terminal.text[-2000:]
    assert [part for part in PARTS if part not in screen] == []
    assert len(children) == 5
    assert not [child.name for child in children if child.alive()]
