"""Builds the kernel of a process."""

from __future__ import annotations

from datetime import timedelta

from spotplane_server.config import ServerConfig
from spotplane_server.kernel import bootstrap, migrate, redis
from spotplane_server.kernel.auth import Authenticator
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import EVERY_TENANT, Database
from spotplane_server.kernel.limits import Limiter, Limits
from spotplane_server.kernel.paging import PageTokens
from spotplane_server.kernel.parts import Kernel
from spotplane_server.kernel.shared_limits import SharedLimits
from spotplane_server.kernel.tickets import Tickets
from spotplane_server.kernel.wakeups import Wakeups


async def open_kernel(config: ServerConfig, db: Database, clock: Clock, server_id: str) -> Kernel:
    """What every feature is built from; puts the first administrator in the database.

    Raises:
        MigrationRefused: The database is older or newer than this program.
    """
    async with db.transaction(EVERY_TENANT) as conn:
        if not await migrate.current(conn):
            raise migrate.MigrationRefused("the database is not migrated: run `spotplane migrate`")
        secret = await bootstrap.shared_secret(conn, "page_tokens")
        tickets = Tickets(db, await bootstrap.shared_secret(conn, "tickets"))
        if config.admin_token:
            await bootstrap.put_admin(
                conn,
                bootstrap.BOOTSTRAP,
                config.admin_token,
                rate_limit_rpm=config.admin_rate_limit_rpm,
                now=clock.now(),
            )
    client = redis.connect(config.redis_url) if config.redis_url else None
    return Kernel(
        config,
        db,
        clock,
        PageTokens(secret),
        Authenticator(db, clock),
        Wakeups(config.database_url, server_id),
        server_id,
        tickets,
        _limits(config, client, server_id, clock),
        client,
    )


def _limits(
    config: ServerConfig, client: redis.Client | None, server_id: str, clock: Clock
) -> Limits:
    if client is None:
        return Limiter()
    lease = timedelta(seconds=config.concurrency_lease_seconds)
    return SharedLimits(client, server_id, clock, lease=lease)
