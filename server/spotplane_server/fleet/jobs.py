"""What the fleet does by itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from itertools import groupby
from typing import Any, Final

from spotplane_server import events
from spotplane_server.fleet import termination_queries as store
from spotplane_server.fleet.termination_queries import Zombie, waited
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.jobs import daily
from spotplane_server.switches import store as switches

ZOMBIE_REPORT_AT: Final = time(6, 0)
# How long a new primary may take to come alive until nobody waits for it any more.
SETTLED_WITHIN: Final = timedelta(hours=24)


class ZombieReportJob:
    """Tells tenants daily at 06:00 UTC what runs for nothing because nobody agreed to end it."""

    name = "zombie-report"
    # How soon after its hour, or after a start, it is noticed to be due.
    period = timedelta(minutes=10)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Tell every tenant that has such instances; answer how many tenants."""
        async with self._db.transaction(ALL_TENANTS) as conn:
            day = await daily.due(conn, self.name, ZOMBIE_REPORT_AT, now)
            if day is None:
                return 0
            zombies = await store.list_zombies(conn)
            tenants = 0
            for _tenant, theirs in groupby(zombies, key=lambda zombie: zombie.tenant_id):
                await events.append(conn, _report(list(theirs), now), now)
                tenants += 1
            await daily.mark_done(conn, self.name, day)
        return tenants


class DowntimeJob:
    """Measures emergencies once their new primary has come alive."""

    name = "switch-downtime"
    period = timedelta(seconds=15)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Settle what can be; answer how many switches were."""
        async with self._db.connection(ALL_TENANTS) as conn:
            return await switches.settle_downtimes(conn, since=now - SETTLED_WITHIN)


def _report(zombies: Sequence[Zombie], now: datetime) -> events.Event:
    """What one tenant's zombies have cost; those of unknown price count as nothing."""
    items = [_item(zombie, now) for zombie in zombies]
    return events.Event(
        "zombies.reported",
        str(zombies[0].tenant_id),
        {
            "count": len(items),
            "oldest_hours": max(item["age_seconds"] for item in items) // 3600,
            "hourly_cost_nanousd": sum(zombie.price_nanousd or 0 for zombie in zombies),
            "cost_nanousd": sum(item["cost_nanousd"] for item in items),
            "instances": items[:100],
            "severity": "warning",
        },
        zombies[0].tenant_id,
    )


def _item(zombie: Zombie, now: datetime) -> dict[str, Any]:
    age = int(waited(zombie.retired_at or now, now).total_seconds())
    return {
        "instance_id": zombie.instance_id,
        "agent_id": str(zombie.agent_id),
        "agent_name": zombie.agent_name,
        "instance_type": zombie.instance_type,
        "region": zombie.region,
        "az": zombie.az,
        "age_seconds": age,
        "price_nanousd": zombie.price_nanousd,
        "cost_nanousd": (zombie.price_nanousd or 0) * age // 3600,
    }
