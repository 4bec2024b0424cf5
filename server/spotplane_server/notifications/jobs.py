"""Making notifications of events, and firing price alerts on clean prices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server import events
from spotplane_server.events import store as outbox
from spotplane_server.events.store import Row
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.notifications import alert_rules, alerts_store, mail, store, templates
from spotplane_server.notifications.alerts_store import Watch
from spotplane_server.prices import queries
from spotplane_server.prices.queries import Fresh, Price, Series
from spotplane_server.prices.rules import BUCKET

CONSUMER: Final = "notifications"
BATCH: Final = 500
HOUR: Final = timedelta(hours=1)
# A new alert is evaluated on a price that is not older; an older one says nothing about now.
CURRENT: Final = timedelta(minutes=10)


class NotificationsJob:
    """Tells of every event once: its place in the outbox moves with what it made of the events."""

    name = "notifications"
    period = timedelta(seconds=1)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Read the outbox to its end; answer how many notifications it made."""
        made = 0
        more = True
        while more:
            async with self._db.transaction(ALL_TENANTS) as conn:
                cursor = await store.lock_cursor(conn, CONSUMER)
                rows = await outbox.list_after(conn, cursor, limit=BATCH)
                if rows:
                    made += await _tell(conn, rows)
                    await store.move_cursor(conn, CONSUMER, (rows[-1].txid, rows[-1].seq))
                more = len(rows) == BATCH
        return made


async def _tell(conn: Conn, rows: Sequence[Row]) -> int:
    agents = {row.id: agent for row in rows if (agent := _agent(row)) is not None}
    names = await store.agent_names(conn, set(agents.values())) if agents else {}
    made = 0
    for row in rows:
        agent_id = agents.get(row.id)
        told = templates.draft(row.event_type, row.data, names.get(agent_id) if agent_id else None)
        if told is None:
            continue
        new = await store.record(conn, row.tenant_id, agent_id, told, row.occurred_at)
        if new is not None:
            made += 1
            data = {"id": str(new), "message": told.message, "severity": told.severity}
            created = events.Event("notification.created", str(new), data, row.tenant_id)
            await events.append(conn, created, row.occurred_at)
    return made


def _agent(row: Row) -> UUID | None:
    found = row.data.get("agent_id")
    return UUID(found) if isinstance(found, str) else None


class PriceAlertsJob:
    """Steps alerts over the clean prices of the pools that they watch, in the order of the prices.

    A new alert is stepped over the current price first: a condition that is true already fires at
    the next run.
    """

    name = "price_alerts"
    period = timedelta(seconds=5)
    singleton = True

    def __init__(self, db: Database, *, by_mail: bool) -> None:
        self._db = db
        self._by_mail = by_mail

    async def run_once(self, now: datetime) -> int:
        """Evaluate new alerts, then all new prices; return how many alerts fired."""
        fired = 0
        more = True
        while more:
            async with self._db.transaction(ALL_TENANTS) as conn:
                # Serializes two processes, which would both step an alert's state.
                await alerts_store.lock_place(conn)
                new = await alerts_store.claim_unevaluated(conn, BATCH)
                if new:
                    watches = await alerts_store.list_watches_of(conn, new)
                    fired += await self._evaluate_new(conn, watches, now)
                more = len(new) == BATCH
        more = True
        while more:
            async with self._db.transaction(ALL_TENANTS) as conn:
                place = await alerts_store.lock_place(conn)
                news = await queries.list_clean_since(conn, place, BATCH)
                if news:
                    fired += await self._step(conn, news, now)
                    await alerts_store.move_place(conn, news[-1].place)
                more = len(news) == BATCH
        return fired

    async def _evaluate_new(self, conn: Conn, watches: Sequence[Watch], now: datetime) -> int:
        """Step new alerts over the current price of each pool, where there is one."""
        pools = {watch.pool_id for watch in watches}
        current = await queries.list_newest(
            conn, pools, now=now, within=CURRENT, interpolated=False
        )
        before = await queries.list_series(conn, pools, now - CURRENT - HOUR - queries.CARRIED, now)
        return sum(
            [
                await self._follow(conn, w, [current[w.pool_id]], before[w.pool_id], now)
                for w in watches
                if w.pool_id in current
            ]
        )

    async def _step(self, conn: Conn, news: Sequence[Fresh], now: datetime) -> int:
        by_pool: dict[str, list[Fresh]] = defaultdict(list)
        for price in sorted(news, key=lambda price: price.bucket_at):
            by_pool[price.pool_id].append(price)
        watches = await alerts_store.list_watches(conn, sorted(by_pool))
        if not watches:
            return 0
        before = await queries.list_series(
            conn,
            {watch.pool_id for watch in watches},
            min(price.bucket_at for price in news) - HOUR - queries.CARRIED,
            max(price.bucket_at for price in news),
        )
        fired = 0
        for watch in watches:
            later = [
                price
                for price in by_pool[watch.pool_id]
                if price.bucket_at + BUCKET > watch.created_at
            ]
            fired += await self._follow(conn, watch, later, before[watch.pool_id], now)
        return fired

    async def _follow(
        self,
        conn: Conn,
        watch: Watch,
        news: Sequence[Fresh | Price],
        before: Series,
        now: datetime,
    ) -> int:
        state, fired = watch.state, 0
        for price in news:
            fires, state = alert_rules.step(
                state,
                watch.alert_type,
                watch.threshold_nanousd,
                price=price.price_nanousd,
                hour_before=before.at(price.bucket_at - HOUR),
                at=price.bucket_at,
            )
            if fires:
                fired += 1
                await self._fire(conn, watch, price, now)
        if state != watch.state:
            await alerts_store.put_state(conn, watch, state)
        return fired

    async def _fire(self, conn: Conn, watch: Watch, price: Fresh | Price, now: datetime) -> None:
        data = {
            "alert_id": str(watch.id),
            "alert_type": watch.alert_type,
            "pool_id": watch.pool_id,
            "price": price.price_nanousd / 1e9,
            "threshold": watch.threshold_nanousd / 1e9,
            "channels": list(watch.channels),
        }
        await alerts_store.note_trigger(conn, watch, now)
        await events.append(
            conn, events.Event("price_alert.triggered", str(watch.id), data, watch.tenant_id), now
        )
        if self._by_mail and "email" in watch.channels and mail.reachable(watch.email):
            text = templates.alert_text(data)
            await mail.queue(conn, watch.tenant_id, watch.email, f"Price alert: {text}", text, now)
