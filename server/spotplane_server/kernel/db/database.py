"""PostgreSQL: one pool, connections that are scoped to a tenant, and named constraints.

The server works under the plain role `spotplane_app`, so row-level security holds for it. Every
connection handed out is scoped to one tenant or, explicitly, to all of them; the scope is a session
setting that the policies compare with each row's `tenant_id`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar, cast
from uuid import UUID

import asyncpg
import orjson

from spotplane_server.kernel.db import connections, transactions, unit_of_work
from spotplane_server.kernel.db.connections import ScopedConnection
from spotplane_server.kernel.db.pool import PROBE_SECONDS, Pool
from spotplane_server.kernel.db.transactions import (
    SET_SCOPE,
    TransactionLost,
    begin,
    roll_back,
)
from spotplane_server.kernel.db.unit_of_work import Isolation, UnitOfWork
from spotplane_server.kernel.errors import Conflict, DomainError, Unavailable
from spotplane_server.kernel.request_context import TenantId

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

    Conn: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Conn = asyncpg.Connection

T = TypeVar("T")

# Deadlocks, serialization failures and connections that end before COMMIT end a transaction that
# did nothing; running it again is right.
MAX_ATTEMPTS: Final = 4
MAX_LOST: Final = 2
ALL_TENANTS: Final = "*"
Scope: TypeAlias = TenantId | Literal["*"]

CONNECTION_ERRORS: Final = transactions.CONNECTION_ERRORS

# What content that nobody foresaw leads to. It would do so again at every try, so whoever works on
# many things goes on with the next one.
PERMANENT_ERRORS: Final = (
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
    await conn.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + orjson.dumps(value, default=_exact),
        decoder=lambda data: orjson.loads(data[1:]),
        format="binary",
    )


# What may end a block without leaving a statement half done: PostgreSQL's answers, and our own.
_AT_REST: Final = (asyncpg.PostgresError, DomainError)


class ScopedConnectionContext:
    """A connection for a block, scoped; for single statements, each its own transaction."""

    __slots__ = ("_conn", "_pool", "_scope")

    def __init__(self, pool: Pool, scope: Scope) -> None:
        self._pool = pool
        self._scope = str(scope)
        self._conn: ScopedConnection | None = None

    async def __aenter__(self) -> ScopedConnection:
        conn = self._pool.find(self._scope)
        if conn is None:
            try:
                conn = await self._pool.take(self._scope)
            except CONNECTION_ERRORS as err:
                raise database_unavailable() from err
        if conn.scope != self._scope:
            try:
                conn.scope = ""
                await conn.execute(SET_SCOPE, self._scope, timeout=PROBE_SECONDS)
                conn.scope = self._scope
            except BaseException as err:
                self._take_back(conn, err)
                raise
        conn.loans += 1
        self._conn = conn
        return conn

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        conn, self._conn = self._conn, None
        if conn is None:
            return
        self._take_back(conn, error)

    def _take_back(self, conn: ScopedConnection, error: BaseException | None) -> None:
        if isinstance(error, TimeoutError | TransactionLost):
            self._pool.suspect()
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
        acquire_timeout: float = connections.CONNECT_SECONDS,
        statement_timeout_seconds: float = connections.STATEMENT_SECONDS,
        answer_timeout_seconds: float = connections.ANSWER_SECONDS,
        role: str = connections.APP_ROLE,
        on_statement: Callable[[LoggedQuery], None] | None = None,
        warm: int = 2,
    ) -> Database:
        """Connect under the plain role, or another.

        Args:
            url: ``postgresql://…``.
            size: Most connections.
            acquire_timeout: Longest wait for one, in seconds.
            statement_timeout_seconds: Longest run of a statement.
            answer_timeout_seconds: Longest wait for the answer to a statement.
            role: To work under; ``none`` for the login itself.
            on_statement: Told of each statement that ran.
            warm: Connections to open now; with 0 the database may be away.

        Raises:
            OSError, asyncpg.PostgresError: The database cannot be reached or refuses.
        """

        async def connect() -> ScopedConnection:
            async with asyncio.timeout(acquire_timeout):
                conn = await connections.connect(
                    url,
                    "spotplane",
                    timeout=acquire_timeout,
                    role=role,
                    statement_seconds=statement_timeout_seconds,
                    answer_seconds=answer_timeout_seconds,
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

    def connection(self, scope: Scope) -> AbstractAsyncContextManager[Conn]:
        """A connection for single statements that only read, each its own transaction.

        In a unit of work that has written, it sees what was written.
        """
        unit = unit_of_work.current()
        if unit is not None and unit.is_open:
            return unit.block(str(scope))
        return ScopedConnectionContext(self._pool, scope)

    def write(self, scope: Scope) -> AbstractAsyncContextManager[Conn]:
        """A connection for one statement that writes, in a transaction of its own.

        In a unit of work it is a part of that instead. Use `transaction` for several statements.
        """
        unit = unit_of_work.current()
        return (
            ScopedConnectionContext(self._pool, scope) if unit is None else unit.block(str(scope))
        )

    def transaction(
        self,
        scope: Scope,
        *,
        isolation: Isolation = "read_committed",
        readonly: bool = False,
        is_independent: bool = False,
    ) -> AbstractAsyncContextManager[Conn]:
        """A connection inside one transaction; committed when the block ends well.

        In a unit of work the block is a part of that, and is committed with the call's answer.

        Args:
            scope: The tenant.
            isolation: Of a transaction; a block of a unit that has begun has the unit's.
            readonly: Only reads, never as a part of a unit.
            is_independent: Never a part of a unit. For work that may be done again without harm,
                and that takes longer than a transaction may stay open.

        Raises:
            TransactionLost: The connection ended before COMMIT was sent.
        """
        unit = None if readonly or is_independent else unit_of_work.current()
        if unit is not None:
            return unit.block(str(scope), isolation=isolation)
        return self._transaction(scope, isolation, readonly=readonly)

    @asynccontextmanager
    async def _transaction(
        self, scope: Scope, isolation: Isolation, *, readonly: bool
    ) -> AsyncIterator[Conn]:
        async with ScopedConnectionContext(self._pool, scope) as conn:
            transaction = conn.transaction(isolation=isolation, readonly=readonly)
            await begin(conn, transaction)
            try:
                yield conn
            except BaseException as err:
                if not await roll_back(conn, transaction) and isinstance(err, CONNECTION_ERRORS):
                    raise TransactionLost from err
                raise
            if conn.is_closed():
                raise TransactionLost
            await transaction.commit()

    def new_unit(
        self, on_early_commit: Callable[[UnitOfWork, object], Awaitable[None]]
    ) -> UnitOfWork:
        """A unit of work of the running task; see `unit_of_work.entered`."""
        return UnitOfWork(
            lambda scope: ScopedConnectionContext(self._pool, cast(Scope, scope)), on_early_commit
        )

    def stats(self) -> dict[str, int]:
        """Connections by state, for metrics."""
        return self._pool.stats()


async def retry_on_serialization_failure(action: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction again when PostgreSQL ended it without effect.

    Raises:
        Conflict: Other transactions were in the way every time.
        TransactionLost: Its connection ended every time.
    """
    for number in range(1, MAX_ATTEMPTS + 1):
        try:
            return await action()
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as err:
            if number == MAX_ATTEMPTS:
                raise Conflict("too many changes at the same time; retry") from err
        except TransactionLost:
            # Each takes as long as it takes to notice that a connection is dead.
            if number == MAX_LOST:
                raise
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
        # A traceback holds this frame, which must not hold the error.
        meaning = errors.pop(err.constraint_name or "", None)
        if meaning is None:
            raise
        try:
            raise meaning from err
        finally:
            del meaning
