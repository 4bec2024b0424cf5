"""Store of price history."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal
from uuid import UUID

from spotplane_server.catalog import rules
from spotplane_server.kernel.db.database import Conn

# Always later than the previous row: clocks of servers differ, and the last stored price must
# be the valid one. The caller holds the lock of the model or region.
APPEND_PRICES: Final = """
    INSERT INTO price_history (kind, ref_id, valid_from, prices)
    SELECT $1, $2, greatest($3, max(valid_from) + interval '1 microsecond'), $4
      FROM price_history
     WHERE kind = $1 AND ref_id = $2
"""


async def append_prices(
    conn: Conn,
    kind: Literal["model", "region"],
    ref_id: UUID,
    prices: Mapping[str, Decimal],
    now: datetime,
) -> None:
    """Append prices valid since ``now``, as decimal text."""
    texts = {name: rules.to_json_value(price) for name, price in prices.items()}
    await conn.execute(APPEND_PRICES, kind, ref_id, now, texts)
