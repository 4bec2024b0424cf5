"""Builds the kernel of a process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from spotplane_server.config import ServerConfig
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.auth.authenticator import Authenticator
from spotplane_server.kernel.auth.tickets import Tickets
from spotplane_server.kernel.auth.trusted_proxies import TrustedProxies
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import bootstrap, migrate
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.db.read_replica import ReadReplica
from spotplane_server.kernel.jobs.notify import Notifier
from spotplane_server.kernel.module import AppContext
from spotplane_server.kernel.ratelimit import redis_client
from spotplane_server.kernel.ratelimit.limiter import LocalRateLimiter, RateLimiter
from spotplane_server.kernel.ratelimit.redis_limiter import RedisLimiter

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

# Longest wait for a connection: whoever waits can have the answer of the primary.
REPLICA_PATIENCE_SECONDS: Final = 2.0

# Told when the first administrator is new or another one: its name, scopes, requests a minute.
Configured: TypeAlias = Callable[[Conn, str, Sequence[str], int, datetime], Awaitable[None]]


async def open_kernel(
    config: ServerConfig, db: Database, clock: Clock, server_id: str, configured: Configured
) -> AppContext:
    """What every feature is built from; puts the first administrator in the database.

    Raises:
        MigrationRefused: The database is older or newer than this program.
    """
    async with db.transaction(ALL_TENANTS) as conn:
        if not await migrate.current(conn):
            raise migrate.MigrationRefused("the database is not migrated: run `spotplane migrate`")
        secret = await bootstrap.shared_secret(conn, "page_tokens")
        tickets = Tickets(db, await bootstrap.shared_secret(conn, "tickets"))
        if config.admin_token:
            await _put_first(conn, config.admin_token, config, clock.now(), configured)
    client = redis_client.connect(config.redis_url) if config.redis_url else None
    return AppContext(
        config,
        db,
        clock,
        PageTokens(secret),
        Authenticator(db, clock, config.admin_ip_allowlist),
        Notifier(config.database_url, server_id),
        server_id,
        tickets,
        _limits(config, client, server_id, clock),
        TrustedProxies(config.trusted_proxies),
        client,
    )


async def open_replica(
    config: ServerConfig, on_statement: Callable[[LoggedQuery], None] | None
) -> ReadReplica | None:
    """The replica of the database, None where the operator has given none; it may be away."""
    if config.read_database_url is None:
        return None
    db = await Database.open(
        config.read_database_url,
        size=config.db_pool_size,
        acquire_timeout=REPLICA_PATIENCE_SECONDS,
        on_statement=on_statement,
        warm=0,
    )
    return ReadReplica(db)


async def _put_first(
    conn: Conn, token: str, config: ServerConfig, now: datetime, configured: Configured
) -> None:
    name, scopes, rpm = bootstrap.BOOTSTRAP, bootstrap.ALL_SCOPES, config.admin_rate_limit_rpm
    if await bootstrap.put_admin(conn, name, token, scopes=scopes, rate_limit_rpm=rpm, now=now):
        await configured(conn, name, scopes, rpm, now)


def _limits(
    config: ServerConfig, client: redis_client.Client | None, server_id: str, clock: Clock
) -> RateLimiter:
    if client is None:
        return LocalRateLimiter()
    lease = timedelta(seconds=config.concurrency_lease_seconds)
    return RedisLimiter(client, server_id, clock, lease=lease)
