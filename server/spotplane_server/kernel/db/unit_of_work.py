"""Unit of work: one transaction per call, committed together with the stored response.

A call under an idempotency key runs in a unit of work. `Database.transaction` and `Database.write`
join it instead of committing on their own, so the row that records the call's completion commits
with every effect of the call or not at all. Other calls have no unit of work.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import asyncpg

from spotplane_server.kernel.db.transactions import (
    CONNECTION_ERRORS,
    SET_SCOPE,
    TransactionLost,
    begin,
    roll_back,
)

if TYPE_CHECKING:
    from asyncpg.transaction import Transaction

    from spotplane_server.kernel.db.connections import ScopedConnection

Isolation: TypeAlias = Literal["read_committed", "repeatable_read"]
_Lease: TypeAlias = "AbstractAsyncContextManager[ScopedConnection]"


class CommitUnknown(Exception):
    """The connection failed during COMMIT, so the transaction may or may not have taken effect."""


@dataclass(frozen=True, slots=True)
class _Open:
    """The transaction, and the connection that it holds."""

    lease: _Lease
    conn: ScopedConnection
    transaction: Transaction


class UnitOfWork:
    """The transaction of one run of a call. It belongs to the task that creates it.

    The first block opens the transaction; if that block fails, nothing remains. Later blocks are
    savepoints. If the connection ends after a block, the unit is lost, and no block runs until
    `rollback`. Tasks started within the call do not join, because a connection serves one statement
    at a time.

    Args:
        lease: Borrows a connection for a scope.
        on_early_commit: Commits the unit with a provisional answer; see `commit_early`.
    """

    def __init__(
        self,
        lease: Callable[[str], _Lease],
        on_early_commit: Callable[[UnitOfWork, object], Awaitable[None]],
    ) -> None:
        self._lease = lease
        self._on_early_commit = on_early_commit
        # A task holds the error that it ends with, whose traceback holds what held this unit.
        task = asyncio.current_task()
        assert task is not None
        self._task = weakref.ref(task)
        self._open: _Open | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._has_ended = False
        self._is_committed = False

    @property
    def is_open(self) -> bool:
        """Whether a transaction has begun."""
        return self._open is not None

    @property
    def is_committed(self) -> bool:
        """Whether the unit has ended with a commit."""
        return self._is_committed

    @property
    def has_ended(self) -> bool:
        """Whether a commit was attempted; blocks no longer join."""
        return self._has_ended

    @property
    def accepts_blocks(self) -> bool:
        """Whether the running task's blocks join."""
        return not self._has_ended and asyncio.current_task() is self._task()

    @asynccontextmanager
    async def block(
        self, scope: str, *, isolation: Isolation = "read_committed"
    ) -> AsyncIterator[ScopedConnection]:
        """The unit's connection, scoped. A block that raises leaves no effect.

        Raises:
            TransactionLost: The connection ended.
        """
        opened = self._open
        if opened is None:
            conn = await self._begin(scope, isolation)
            try:
                yield conn
            except BaseException as err:
                if not await self._end(err) and isinstance(err, CONNECTION_ERRORS):
                    raise TransactionLost from err
                raise
            return
        async with _savepoint(opened.conn, scope) as conn:
            yield conn

    def defer(self, callback: Callable[[], None]) -> None:
        """Call back after the commit, and never if there is none."""
        self._callbacks.append(callback)

    async def commit(
        self, scope: str, complete: Callable[[ScopedConnection], Awaitable[None]]
    ) -> None:
        """Run ``complete`` as the last block, commit, and run the deferred callbacks.

        Raises:
            CommitUnknown: See there; call `settle` if it turns out that the commit took effect.
            Exception: Raised by ``complete`` or PostgreSQL; nothing was committed.
        """
        self._has_ended = True
        try:
            async with self.block(scope) as conn:
                await complete(conn)
        except BaseException:
            await self.rollback()
            raise
        opened = self._open
        assert opened is not None
        if opened.conn.is_closed():
            await self.rollback()
            raise TransactionLost
        try:
            await opened.transaction.commit()
        except BaseException as err:
            # The server process behind a dead connection may still be committing.
            opened.conn.terminate()
            await self._give_back(err)
            if isinstance(err, Exception) and not _is_definite(err):
                raise CommitUnknown from err
            raise
        await self._give_back(None)
        self.settle()

    def settle(self) -> None:
        """Run the deferred callbacks of a commit that took effect."""
        self._is_committed = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    async def rollback(self) -> None:
        """Undo all blocks that are not committed and drop the deferred callbacks."""
        if self._open is not None:
            await self._end(None)
        self._callbacks.clear()

    async def commit_early(self, answer: object) -> None:
        """Commit with an answer that is provisional."""
        await self._on_early_commit(self, answer)

    async def _begin(self, scope: str, isolation: Isolation) -> ScopedConnection:
        lease = self._lease(scope)
        conn = await lease.__aenter__()
        transaction = conn.transaction(isolation=isolation)
        try:
            await begin(conn, transaction)
        except BaseException as err:
            await lease.__aexit__(type(err), err, err.__traceback__)
            raise
        self._open = _Open(lease, conn, transaction)
        return conn

    async def _end(self, error: BaseException | None) -> bool:
        """Roll back; False when the connection ended first.

        The connection's scope is unknown afterwards, since changes to it are undone too.
        """
        opened = self._open
        assert opened is not None
        self._callbacks.clear()
        alive = False
        try:
            alive = await roll_back(opened.conn, opened.transaction)
        finally:
            opened.conn.scope = ""
            await self._give_back(error)
        return alive

    async def _give_back(self, error: BaseException | None) -> None:
        opened, self._open = self._open, None
        assert opened is not None
        await opened.lease.__aexit__(type(error) if error else None, error, None)


_current: ContextVar[UnitOfWork | None] = ContextVar("spotplane_unit_of_work", default=None)


def current() -> UnitOfWork | None:
    """The unit that blocks of the running task join, None outside of one."""
    unit = _current.get()
    return unit if unit is not None and unit.accepts_blocks else None


@contextmanager
def entered(unit: UnitOfWork) -> Iterator[None]:
    """Make the unit the current one within the block."""
    token = _current.set(unit)
    try:
        yield
    finally:
        _current.reset(token)


def after_commit(callback: Callable[[], None]) -> None:
    """Call back once the effects of the running call are committed; at once outside of a unit.

    For hints to other tasks and processes: before the commit they would find nothing.
    """
    unit = _current.get()
    if unit is None or unit.has_ended:
        callback()
    else:
        unit.defer(callback)


async def restart() -> None:
    """Undo what the running call has done so far, before it runs again."""
    unit = current()
    if unit is not None:
        await unit.rollback()


async def commit_early(answer: object) -> None:
    """Commit what the running call has done so far, with an answer for repeats of the call.

    For handlers that must see their effects committed and then work for longer than a transaction
    may stay open, such as loading an engine. If the process dies meanwhile, repeats of the call
    receive ``answer``; otherwise the handler's own response replaces it. Does nothing outside of a
    unit, where every transaction commits on its own.
    """
    unit = current()
    if unit is not None:
        await unit.commit_early(answer)


@asynccontextmanager
async def _savepoint(conn: ScopedConnection, scope: str) -> AsyncIterator[ScopedConnection]:
    """A savepoint under a scope; the scope before it is restored."""
    if conn.is_closed():
        raise TransactionLost
    outer = conn.scope
    await _set_scope(conn, scope)
    transaction = conn.transaction()
    await transaction.start()
    try:
        yield conn
    except BaseException as err:
        if await roll_back(conn, transaction):
            await _set_scope(conn, outer)
        elif isinstance(err, CONNECTION_ERRORS):
            raise TransactionLost from err
        raise
    if conn.is_closed():
        raise TransactionLost
    await transaction.commit()
    await _set_scope(conn, outer)


async def _set_scope(conn: ScopedConnection, scope: str) -> None:
    if conn.scope != scope:
        conn.scope = ""
        await conn.execute(SET_SCOPE, scope)
        conn.scope = scope


def _is_definite(err: BaseException) -> bool:
    """Whether PostgreSQL itself refused a COMMIT, as a deferred constraint does."""
    unknown = (
        asyncpg.PostgresConnectionError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.QueryCanceledError,
    )
    return isinstance(err, asyncpg.PostgresError) and not isinstance(err, unknown)
