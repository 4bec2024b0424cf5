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
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import orjson

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.errors import Conflict, DomainError, Unavailable
from spotplane_server.kernel.pool import Pool, ScopedConnection

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

    Conn: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Conn = asyncpg.Connection

T = TypeVar("T")

APP_ROLE: Final = "spotplane_app"
# Deadlocks and serialization failures end a transaction that did nothing; running it again is
# right.
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

# What content that nobody foresaw leads to. It would do so again at every try, so whoever works on
# many things goes on with the next one.
DEFECTS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
)


def _exact(value: object) -> str:
    """Say as text what `orjson` does not know: exact numbers, and asyncpg's own kind of UUID."""
    if isinstance(value, UUID | Decimal):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


async def _prepare(conn: ScopedConnection) -> None:
    conn.scope = ""
    await conn.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + orjson.dumps(value, default=_exact),
        decoder=lambda data: orjson.loads(data[1:]),
        format="binary",
    )


# What may end a block without leaving a statement half done: PostgreSQL's answers, and our own.
_AT_REST: Final = (asyncpg.PostgresError, DomainError)


class Lease:
    """A connection for a block, scoped; for single statements, each its own transaction."""

    __slots__ = ("_conn", "_pool", "_scope")

    def __init__(self, pool: Pool, scope: Scope) -> None:
        self._pool = pool
        self._scope = str(scope)
        self._conn: ScopedConnection | None = None

    async def __aenter__(self) -> Conn:
        conn = self._pool.find(self._scope)
        if conn is None:
            try:
                conn = await self._pool.take(self._scope)
            except AWAY as err:
                raise database_unavailable() from err
        if conn.scope != self._scope:
            try:
                conn.scope = ""
                await conn.execute(SET_SCOPE, self._scope)
                conn.scope = self._scope
            except BaseException:
                self._pool.settle(conn)
                raise
        self._conn = conn
        return conn

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        conn, self._conn = self._conn, None
        if conn is None:
            return
        if error is None or isinstance(error, _AT_REST):
            self._pool.give(conn)
        else:
            self._pool.settle(conn)


class Database:
    """The pool, and the two ways to use it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        size: int = 10,
        acquire_timeout: float = 5.0,
        statement_timeout_seconds: float = 30.0,
        on_statement: Callable[[LoggedQuery], None] | None = None,
        warm: int = 2,
    ) -> Database:
        """Connect under the plain role.

        Args:
            url: ``postgresql://…``.
            size: Most connections.
            acquire_timeout: Longest wait for one, in seconds.
            statement_timeout_seconds: Longest run of a statement.
            on_statement: Told of each statement that ran.
            warm: Connections to open now; with 0 the database may be away.

        Raises:
            OSError, asyncpg.PostgresError: The database cannot be reached or refuses.
        """

        async def connect() -> ScopedConnection:
            conn = await asyncpg.connect(
                url,
                connection_class=ScopedConnection,
                timeout=acquire_timeout,
                server_settings={
                    "role": APP_ROLE,
                    "application_name": "spotplane",
                    "statement_timeout": str(int(statement_timeout_seconds * 1000)),
                    # Our statements are short; compiling them costs more than it saves.
                    "jit": "off",
                },
            )
            await _prepare(conn)
            if on_statement is not None:
                conn.add_query_logger(on_statement)
            return conn

        pool = Pool(connect, size, acquire_timeout)
        await pool.warm(min(warm, size))
        return cls(pool)

    async def close(self) -> None:
        """Close, waiting 5 s for connections in use."""
        await self._pool.close()

    def read(self, scope: Scope) -> Lease:
        """A connection for single statements, each its own transaction."""
        return Lease(self._pool, scope)

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
            Lease(self._pool, scope) as conn,
            conn.transaction(isolation=isolation, readonly=readonly),
        ):
            yield conn

    def stats(self) -> dict[str, int]:
        """Connections by state, for metrics."""
        return self._pool.stats()


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
