"""Feature modules: the dependencies of a feature and its contributions to the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spotplane_server.config import ServerConfig
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.auth.authenticator import Authenticator
from spotplane_server.kernel.auth.tickets import Tickets
from spotplane_server.kernel.auth.trusted_proxies import TrustedProxies
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Database
from spotplane_server.kernel.db.read_replica import ReadReplica
from spotplane_server.kernel.jobs.notify import Notifier
from spotplane_server.kernel.jobs.retention import Rule
from spotplane_server.kernel.jobs.runner import Job
from spotplane_server.kernel.ratelimit.limiter import RateLimiter
from spotplane_server.kernel.ratelimit.redis_client import Client


@dataclass(frozen=True, slots=True)
class AppContext:
    """What every feature is built from.

    Attributes:
        limits: Budgets of calls; what tokens were used is charged there.
        redis: Shared by all servers; None where the operator has given none.
        replica: Of the database; None where the operator has given none.
    """

    config: ServerConfig
    db: Database
    clock: Clock
    tokens: PageTokens
    auth: Authenticator
    wakeups: Notifier
    server_id: str
    tickets: Tickets
    limits: RateLimiter
    proxies: TrustedProxies
    redis: Client | None = None
    replica: ReadReplica | None = None


@dataclass(frozen=True, slots=True)
class FeatureModule:
    """What a feature gives to the process.

    Attributes:
        services: How to add each to a server, and the service.
        jobs: Its background jobs.
        background: What runs beside them until the process stops.
        drain: What to end before the server stops.
        retention: What of its own is forgotten after some time.
    """

    services: Sequence[tuple[Any, Any]] = ()
    jobs: Sequence[Job] = ()
    background: Sequence[Any] = ()
    drain: Sequence[Any] = ()
    retention: Sequence[Rule] = ()
