"""Redis client: one per process, with short timeouts.

What is kept there may be lost at any time: it is rebuilt or runs out. Whoever asks decides what an
absent Redis means: a budget refuses with 503, a cache reads its source.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

# Both servers stand in the same network; what takes longer is away, and callers are waiting.
CONNECT_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 0.5
CONNECTIONS: Final = 16
# Before a connection that was unused for so long is used again, it is tried.
IDLE_SECONDS: Final = 15

# What a failed command raises while Redis is away or broken.
AWAY: Final = (RedisError, OSError, TimeoutError)

Client: TypeAlias = Redis


def connect(url: str) -> Client:
    """A client for ``redis://``, ``rediss://`` or ``unix://``; it connects when it is first used.

    A command fails with one of `AWAY` within about a second, and the next one connects anew.
    Values come back as bytes. Close it with ``aclose``.
    """
    return Redis(
        connection_pool=BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=ANSWER_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            health_check_interval=IDLE_SECONDS,
            # Once more, at once: a connection that Redis closed while idle is no failure.
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[ConnectionError],
        )
    )


async def answers(client: Client) -> bool:
    """Whether Redis answers now."""
    try:
        return bool(await client.ping())
    except AWAY:
        return False
