"""Collects usage records into reports."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from spotplane.v1.agent_stream_pb2 import Report, UsageReport
from spotplane.v1.usage_pb2 import UsageRecord

from spotplane_agents.errors import AgentError, SpoolFull

logger: Final = logging.getLogger(__name__)

MAX_RECORDS: Final = 1000
# Half of a stream message's limit, so that the frame around it never matters.
MAX_REPORT_BYTES: Final = 512 << 10
MAX_RECORD_BYTES: Final = 64 << 10
BUFFERED_RECORDS: Final = 10_000


class UsageBuffer:
    """Records in memory, written to the spool every second or every thousand records.

    Records of the last second are lost when the process is killed; ``flush`` after a record
    prevents
    that.
    """

    def __init__(self, append: Callable[[Report], Awaitable[None]], period: float = 1.0) -> None:
        self._append = append
        self._period = period
        self._records: deque[UsageRecord] = deque()
        self._enough = asyncio.Event()
        self._writing = asyncio.Lock()

    def add(self, record: UsageRecord) -> None:
        """Add a record.

        Raises:
            SpoolFull: The spool rejects usage at present, and the buffer is full too.
            ValueError: The record is larger than 64 KiB.
        """
        if record.ByteSize() > MAX_RECORD_BYTES:
            raise ValueError(f"a usage record may have {MAX_RECORD_BYTES} bytes")
        if len(self._records) >= BUFFERED_RECORDS:
            raise SpoolFull("usage cannot be stored: the spool and the buffer are full")
        self._records.append(record)
        if len(self._records) >= MAX_RECORDS:
            self._enough.set()

    async def run(self) -> None:
        """Write the collected records, for as long as the agent runs."""
        while True:
            try:
                async with asyncio.timeout(self._period):
                    await self._enough.wait()
            except TimeoutError:
                pass
            self._enough.clear()
            try:
                await self.flush()
            except AgentError as error:
                logger.warning("usage stays in memory: %s", error)
                await asyncio.sleep(self._period)

    async def flush(self) -> None:
        """Write everything to the spool.

        Raises:
            SpoolFull: It rejects usage at present; the records stay in memory.
            StateUnavailable: It cannot be written; the records stay in memory.
        """
        async with self._writing:
            while self._records:
                batch = self._batch()
                await self._append(Report(usage=UsageReport(records=batch)))
                for _ in batch:
                    self._records.popleft()

    def _batch(self) -> list[UsageRecord]:
        batch: list[UsageRecord] = []
        size = 0
        for record in self._records:
            size += record.ByteSize() + 8
            if len(batch) == MAX_RECORDS or (batch and size > MAX_REPORT_BYTES):
                break
            batch.append(record)
        return batch
