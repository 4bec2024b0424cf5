"""Notifications between features and processes: coalesced hints that something may have changed.

Within the process a hint is a callback at once. To the other processes it goes by one NOTIFY per
few milliseconds on a connection of its own, never in a request's transaction, where it would
serialize commits. A lost hint costs a polling period, nothing else.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import orjson
import structlog

from spotplane_server.kernel.db import connections, database
from spotplane_server.kernel.db.unit_of_work import after_commit

log = structlog.get_logger(__name__)

CHANNEL: Final = "spotplane_wakeups"
NOTIFY: Final = "SELECT pg_notify($1, $2)"
COALESCE_SECONDS: Final = 0.003
# PostgreSQL refuses payloads of 8,000 bytes; 150 keys of about 48 characters stay below.
MAX_KEYS: Final = 150
RECONNECT_SECONDS: Final = 1.0
PROBE: Final = "SELECT 1"
PROBE_EVERY_SECONDS: Final = 5.0
# Longest wait for the answer to a NOTIFY or a probe.
PROBE_SECONDS: Final = 2.0


class Notifier:
    """Signals by topic and key, to this process and the others."""

    def __init__(self, url: str, process_id: str) -> None:
        self._url = url
        self._process_id = process_id
        self._listeners: dict[str, list[Callable[[str], None]]] = defaultdict(list)
        self._pending: dict[tuple[str, str], None] = {}
        self._due = asyncio.Event()

    def listen(self, topic: str, callback: Callable[[str], None]) -> None:
        """Call back with the key of every signal of the topic."""
        self._listeners[topic].append(callback)

    def signal(self, topic: str, key: str) -> None:
        """Hint at a change. Call it after the commit; in a unit of work it waits for that."""
        after_commit(lambda: self._signal(topic, key))

    def _signal(self, topic: str, key: str) -> None:
        self._fire(topic, key)
        self._pending[(topic, key)] = None
        self._due.set()

    async def run(self) -> None:
        """Exchange hints with the other processes until cancelled, reconnecting when cut."""
        while True:
            try:
                conn = await connections.connect(
                    self._url, "spotplane-wakeups", answer_seconds=PROBE_SECONDS
                )
            except (asyncpg.PostgresError, *database.CONNECTION_ERRORS):
                log.warning("wakeups_not_connected", exc_info=True)
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                conn.add_termination_listener(lambda _conn: self._due.set())
                await conn.add_listener(CHANNEL, self._receive)
                await self._send(conn)
            except (asyncpg.PostgresError, *database.CONNECTION_ERRORS):
                log.warning("wakeups_cut", exc_info=True)
                await asyncio.sleep(RECONNECT_SECONDS)
            finally:
                conn.terminate()

    async def _send(self, conn: asyncpg.Connection[asyncpg.Record]) -> None:
        while True:
            if not await self._is_due():
                # A listener whose connection is dead would otherwise never notice.
                await conn.execute(PROBE)
                continue
            if conn.is_closed():
                raise asyncpg.InterfaceError("the connection was cut")
            await asyncio.sleep(COALESCE_SECONDS)
            self._due.clear()
            keys = list(self._pending)
            self._pending.clear()
            for start in range(0, len(keys), MAX_KEYS):
                batch = [self._process_id, keys[start : start + MAX_KEYS]]
                await conn.execute(NOTIFY, CHANNEL, orjson.dumps(batch).decode())

    async def _is_due(self) -> bool:
        """Wait for something to send; False when nothing came for a while."""
        try:
            async with asyncio.timeout(PROBE_EVERY_SECONDS):
                await self._due.wait()
        except TimeoutError:
            return False
        return True

    def _receive(self, _conn: Any, _pid: int, _channel: str, payload: object) -> None:
        sender, keys = orjson.loads(str(payload))
        if sender != self._process_id:
            for topic, key in keys:
                self._fire(topic, key)

    def _fire(self, topic: str, key: str) -> None:
        for callback in self._listeners[topic]:
            callback(key)
