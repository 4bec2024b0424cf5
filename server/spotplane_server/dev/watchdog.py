"""Ends the children of a `spotplane dev` that was killed: ``python -m … PIDFILE``.

It waits for the end of its standard input, which comes with the end of its parent, whatever the
cause. After an orderly end the file is gone, and so is the work.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from spotplane_server.dev.pids import PidFile


def main() -> None:
    """Wait, then end them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    listed = Path(sys.argv[1])
    if PidFile(listed).end_all():
        # Scripts take this file for a sign of life.
        listed.with_name("dev.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
