"""Retries writes to the state file until they succeed."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from spotplane_agents.backoff import Pace
from spotplane_agents.errors import SpoolFull, StateClosed, StateUnavailable

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")


class DiskRetry:
    """Retries writes that a full disk or a full spool rejects; cancel the caller to give up.

    Args:
        pace: Waits between attempts.
        random: Random numbers in [0, 1) for the jitter.
    """

    def __init__(self, pace: Pace, random: Callable[[], float]) -> None:
        self._pace = pace
        self._draw = random

    async def write(self, what: str, action: Callable[[], T]) -> T:
        """Run ``action`` in a thread until it succeeds, and return its result.

        Args:
            what: Names the write in the log.
            action: One transaction; a failed one has changed nothing.

        Raises:
            StateClosed: The agent has ended.
        """
        attempt = 0
        while True:
            try:
                return await asyncio.to_thread(action)
            except StateClosed:
                raise
            except (StateUnavailable, SpoolFull) as error:
                attempt += 1
                wait = self._pace.wait_seconds(attempt, self._draw)
                logger.error("%s cannot be stored, retry in %.1f s: %s", what, wait, error)
            await asyncio.sleep(wait)
