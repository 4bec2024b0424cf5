"""Claims of idempotency keys, whose times are PostgreSQL's."""

from __future__ import annotations

from typing import Final

import asyncpg
from spotplane_server.kernel.rpc.idempotency import CLAIM

AGE_CLAIMS: Final = "UPDATE idempotency_keys SET claimed_until = claimed_until - $1::interval"


async def lapse_claims(database_url: str) -> None:
    """Let the time of all claims pass."""
    conn = await asyncpg.connect(database_url)
    try:
        await conn.execute(AGE_CLAIMS, CLAIM)
    finally:
        await conn.close()
