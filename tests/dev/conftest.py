"""A running `spotplane dev`, on free ports, in a directory of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from spotplane_server.dev.pids import PidFile, Process

from tests.support.command import COMMAND, environment

FREE_PORTS = ("--port", "0", "--bridge-port", "0", "--grpc-port", "0")
READY_WITHIN_SECONDS = 45.0


class Development:
    """One run, and what it wrote about itself."""

    def __init__(self, process: subprocess.Popen[bytes], data_dir: Path, output: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.output = output
        self.said: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text(encoding="utf-8")

    def wait_until_ready(self) -> None:
        """Wait for `dev.json`."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        path = self.data_dir / "dev.json"
        while self.said.get("pid") != self.process.pid:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)
            # A killed run may have left its own, which the new one removes at some moment.
            with suppress(FileNotFoundError):
                self.said = json.loads(path.read_text(encoding="utf-8"))

    def children(self) -> list[Process]:
        """Every process it has started."""
        return PidFile(self.data_dir / "pids.json").read()

    def end(self, sign: int) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(sign)
        return self.process.wait(timeout=30)


@contextmanager
def development(data_dir: Path, *arguments: str) -> Iterator[Development]:
    """Run it for the block; however the block ends, nothing of it is left."""
    data_dir.mkdir(exist_ok=True)
    output = data_dir / "output.txt"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [*COMMAND, "dev", "--data-dir", str(data_dir), *FREE_PORTS, *arguments],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment({}),
            start_new_session=True,
        )
        run = Development(process, data_dir, output)
        try:
            run.wait_until_ready()
            yield run
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
                process.wait(timeout=30)
            PidFile(data_dir / "pids.json").end_all()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Development]:
    """A small demo whose cloud takes nothing back by itself; shared by a file's tests."""
    data_dir = tmp_path_factory.mktemp("dev")
    with development(data_dir, "--agents", "6", "--first-notice", "3600") as run:
        yield run
