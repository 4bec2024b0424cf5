"""PostgreSQL: one pool, connections that are scoped to a tenant, and named constraints.

The server works under the plain role `spotplane_app`, so row-level security holds for it. Every
connection handed out is scoped to one tenant or, explicitly, to all of them; the scope is a session
setting that the policies compare with each row's `tenant_id`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import orjson

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.errors import Conflict, DomainError, Unavailable

if TYPE_CHECKING:
    Conn: TypeAlias = (
        asyncpg.Connection[asyncpg.Record] | "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
    )
    _Base = asyncpg.Connection[asyncpg.Record]
else:
    Conn = asyncpg.Connection
    _Base = asyncpg.Connection

T = TypeVar("T")

APP_ROLE: Final = "spotplane_app"
# Deadlocks and serialization failures end a transaction that did nothing; running it again is right.
MAX_ATTEMPTS: Final = 4
EVERY_TENANT: Final = "*"
Scope: TypeAlias = TenantId | Literal["*"]

SET_SCOPE: Final = "SELECT set_config('spotplane.tenant_id', $1, false)"

# What asyncpg raises when the database is away, restarting or full; all of it is worth a retry.
AWAY: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    # What a connection says between being told that it is cut and noticing.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


class ScopedConnection(_Base):
    """A connection that remembers its scope, so that only a change of it costs a round trip."""

    __slots__ = ("scope",)

    scope: str

    def get_reset_query(self) -> str:
        """Nothing to reset: settings are either transaction-local or the scope."""
        return ""


def _exact(value: object) -> str:
    """Say as text what `orjson` does not know: exact numbers, and asyncpg's own kind of UUID."""
    if isinstance(value, UUID | Decimal):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


async def _prepare(conn: Any) -> None:
    conn.scope = ""
    await conn.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + orjson.dumps(value, default=_exact),
        decoder=lambda data: orjson.loads(data[1:]),
        format="binary",
    )


class Database:
    """The pool, and the two ways to use it."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], *, acquire_timeout: float = 5.0) -> None:
        self._pool = pool
        self._acquire_timeout = acquire_timeout

    @classmethod
    async def open(
        cls, url: str, *, size: int = 10, statement_timeout_seconds: float = 30.0
    ) -> Database:
        """Connect under the plain role.

        Raises:
            OSError, asyncpg.PostgresError: The database cannot be reached or refuses.
        """
        pool = await asyncpg.create_pool(
            url,
            min_size=min(2, size),
            max_size=size,
            max_inactive_connection_lifetime=0,
            connection_class=ScopedConnection,
            init=_prepare,
            server_settings={
                "role": APP_ROLE,
                "application_name": "spotplane",
                "statement_timeout": str(int(statement_timeout_seconds * 1000)),
                "jit": "off",  # our statements are short; compiling them costs more than it saves
            },
        )
        return cls(pool)

    async def close(self) -> None:
        """Close, waiting 5 s for connections in use."""
        try:
            await asyncio.wait_for(self._pool.close(), timeout=5.0)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def read(self, scope: Scope) -> AsyncIterator[Conn]:
        """A connection for single statements, each its own transaction."""
        async with self._acquire(scope) as conn:
            yield conn

    @asynccontextmanager
    async def transaction(
        self,
        scope: Scope,
        *,
        isolation: Literal["read_committed", "repeatable_read"] = "read_committed",
        readonly: bool = False,
    ) -> AsyncIterator[Conn]:
        """A connection inside one transaction; committed when the block ends well."""
        async with (
            self._acquire(scope) as conn,
            conn.transaction(isolation=isolation, readonly=readonly),
        ):
            yield conn

    def stats(self) -> dict[str, int]:
        """Connections by state, for metrics."""
        idle = self._pool.get_idle_size()
        return {"idle": idle, "used": self._pool.get_size() - idle}

    @asynccontextmanager
    async def _acquire(self, scope: Scope) -> AsyncIterator[Conn]:
        try:
            conn: Any = await self._pool.acquire(timeout=self._acquire_timeout)
        except AWAY as err:
            raise database_unavailable() from err
        try:
            wanted = str(scope)
            # The proxy forwards attribute reads only; the scope lives on the connection itself.
            raw = conn._con
            if raw.scope != wanted:
                raw.scope = ""
                await conn.execute(SET_SCOPE, wanted)
                raw.scope = wanted
            yield conn
        finally:
            await self._pool.release(conn)


async def attempt(action: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction again when PostgreSQL ended it for the sake of another.

    Raises:
        Conflict: It happened every time.
    """
    for number in range(1, MAX_ATTEMPTS + 1):
        try:
            return await action()
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as err:
            if number == MAX_ATTEMPTS:
                raise Conflict("too many changes at the same time; retry") from err
            await asyncio.sleep(0.005 * number)
    raise AssertionError("unreachable")


def database_unavailable() -> Unavailable:
    """The error for a database that is away."""
    return Unavailable("the database is not available", retry_after_seconds=1.0)


@contextmanager
def constraints(**errors: DomainError) -> Iterator[None]:
    """Say a violated constraint, by its name, as the domain error that it means."""
    try:
        yield
    except asyncpg.IntegrityConstraintViolationError as err:
        meaning = errors.get(err.constraint_name or "")
        if meaning is None:
            raise
        raise meaning from err
