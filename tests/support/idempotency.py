"""Rows of idempotency keys, whose times are PostgreSQL's."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import asyncpg

AGE_KEYS: Final = """
    UPDATE idempotency_keys
       SET claimed_until = claimed_until - $1::interval,
           created_at = created_at - $1::interval
"""


async def age_keys(database_url: str, by: timedelta) -> None:
    """Let so much time pass for all idempotency keys."""
    conn = await asyncpg.connect(database_url)
    try:
        await conn.execute(AGE_KEYS, by)
    finally:
        await conn.close()
