"""Idempotency keys: a keyed call takes effect once, and its repeats receive the first response.

A key is claimed by an attempt in a transaction of its own. The answer is stored by the transaction
that holds the effects of the call (`unit_of_work`), and only while the attempt still holds the
claim. So a call whose COMMIT received no answer can be decided: the key has an answer, or the
call had no effect. A server that was paused beyond its claim rolls back.

An answer may contain a new token, which is stored as a hash only. So it is encrypted under the
caller's credential, which the database does not contain either.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import grpc
import orjson
import structlog
from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from spotplane_server.kernel.auth.encryption import SecretBox, derive_key
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import database, unit_of_work
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.db.unit_of_work import CommitUnknown, UnitOfWork
from spotplane_server.kernel.errors import (
    AlreadyExists,
    Conflict,
    DomainError,
    Invalid,
    Unavailable,
    Violation,
)
from spotplane_server.kernel.request_context import Call

log = structlog.get_logger(__name__)

KEEP: Final = timedelta(hours=24)
# Longer than any call's deadline. A server that dies before its commit blocks the key for so long.
CLAIM: Final = timedelta(seconds=90)
# How long a caller waits for the outcome of a COMMIT that received no answer. A server process of
# PostgreSQL notices within a few seconds that its client is gone.
RESOLVE_SECONDS: Final = 10.0
_RESOLVE_PAUSE_SECONDS: Final = 0.2
NO_TENANT: Final = UUID(int=0)

_KEY: Final = re.compile(r"[\x20-\x7e]{8,128}")
_VARIABLE: Final = re.compile(r"\{([\w.]+)[^}]*\}")
_PURPOSE: Final = b"spotplane idempotent answers"
# Answers that are not final: another try may end otherwise.
_NOT_FINAL: Final = frozenset({401, 429})

# Claims are timed by PostgreSQL's clock, so that servers with wrong clocks agree on who holds one.
# The age of an answer is by the servers' clock, as retention reads it.
CLAIM_KEY: Final = """
    INSERT INTO idempotency_keys AS k (tenant_id, scope, request_hash, attempt, claimed_until,
                                       created_at)
    VALUES ($1, $2, $3, $4, clock_timestamp() + $5, $6)
    ON CONFLICT (tenant_id, scope) DO UPDATE
       SET request_hash = excluded.request_hash,
           attempt = excluded.attempt,
           claimed_until = excluded.claimed_until,
           answer = NULL,
           created_at = excluded.created_at
     WHERE (k.answer IS NULL AND k.claimed_until <= clock_timestamp())
        OR k.created_at <= $7
    RETURNING true
"""

FIND_KEY: Final = """
    SELECT request_hash, answer
      FROM idempotency_keys
     WHERE tenant_id = $1
       AND scope = $2
"""

COMPLETE_KEY: Final = """
    UPDATE idempotency_keys
       SET answer = $4
     WHERE tenant_id = $1
       AND scope = $2
       AND attempt = $3
       AND claimed_until > clock_timestamp()
    RETURNING true
"""

REPLACE_ANSWER: Final = """
    UPDATE idempotency_keys
       SET answer = $4
     WHERE tenant_id = $1
       AND scope = $2
       AND attempt = $3
"""

# Waits for a transaction that is completing the key, and then sees its outcome.
RELEASE_KEY: Final = """
    DELETE FROM idempotency_keys
     WHERE tenant_id = $1
       AND scope = $2
       AND attempt = $3
       AND answer IS NULL
    RETURNING true
"""

IS_COMPLETED: Final = """
    SELECT answer IS NOT NULL
      FROM idempotency_keys
     WHERE tenant_id = $1
       AND scope = $2
       AND attempt = $3
"""


class DuplicateRequest(Conflict):
    """The first call under this key is still running."""

    reason = "DUPLICATE_REQUEST"

    def __init__(self) -> None:
        super().__init__("a request with this key is in progress", retry_after_seconds=1.0)


class IdempotencyConflict(AlreadyExists):
    """The key belongs to another request."""

    reason = "IDEMPOTENCY_CONFLICT"

    def __init__(self) -> None:
        super().__init__("this key was used with another request")


class ClaimLost(Unavailable):
    """The call took longer than its claim lasts, so it was rolled back."""

    def __init__(self) -> None:
        super().__init__(
            "the call took longer than its idempotency key was reserved, and was undone",
            retry_after_seconds=1.0,
        )


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The idempotency key of a call.

    Attributes:
        key: The key as sent.
        resource: Names the resource within the RPC; the key belongs to both.
        loose: Whether another request under the same key is a request of its own: some legacy
            clients send one `X-Request-ID` with all their calls.
    """

    key: str
    resource: tuple[str, ...]
    loose: bool


def read_key(
    metadata: Mapping[str, str], method: str, request: Message | None
) -> IdempotencyKey | None:
    """Read a call's metadata; None when it names no key.

    The resource is that of the path of the legacy API, which says so in `x-idempotency-scope`.
    Otherwise it is made of the fields that the RPC's path names, so that the key is the same for
    gRPC and for every endpoint that translates REST.

    Args:
        metadata: Of the call.
        method: The RPC.
        request: None for a stream.

    Raises:
        Invalid: The key is not 8 to 128 printable characters.
    """
    key = metadata.get("idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise Invalid("the key must be 8 to 128 printable characters", field="idempotency-key")
    path = metadata.get("x-idempotency-scope")
    resource = (path,) if path else _path_values(method, request)
    return IdempotencyKey(key, resource, metadata.get("x-idempotency-alias") == "x-request-id")


def _path_values(method: str, request: Message | None) -> tuple[str, ...]:
    if request is None:
        return ()
    return tuple(str(_value(request, name)) for name in _path_fields(method))


@cache
def _path_fields(method: str) -> tuple[str, ...]:
    """Names of the request's fields that the RPC's first REST path contains."""
    descriptor = descriptor_pool.Default().FindMethodByName(  # type: ignore[no-untyped-call]
        method.strip("/").replace("/", ".")
    )
    rule = descriptor.GetOptions().Extensions[annotations_pb2.http]
    path = getattr(rule, rule.WhichOneof("pattern") or "get")
    return tuple(_VARIABLE.findall(path))


def _value(message: Message, name: str) -> object:
    value: Any = message
    for part in name.split("."):
        value = getattr(value, part)
    return value


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt at a keyed call, which holds the key's claim.

    Attributes:
        tenant_id, scope: The key's row.
        request_hash: Of the request.
        box: Encrypts the answer.
        id: Fences the row against other attempts.
    """

    tenant_id: UUID
    scope: bytes
    request_hash: bytes
    box: SecretBox
    id: UUID

    @property
    def row(self) -> tuple[UUID, bytes, UUID]:
        """The parameters that name the row while this attempt holds it."""
        return self.tenant_id, self.scope, self.id

    def seal(self, answer: dict[str, Any]) -> bytes:
        """Encrypt an answer for the row."""
        return self.box.seal(orjson.dumps(answer), self.scope)


class IdempotencyStore:
    """Runs each keyed call once, and answers its repeats."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._running: set[asyncio.Task[bytes]] = set()

    async def answer(
        self,
        call: Call,
        secret: str,
        wanted: IdempotencyKey,
        request: bytes,
        run: Callable[[], Awaitable[Any]],
        write: Callable[[Any], bytes],
    ) -> bytes:
        """The response's bytes: of this run, or of the first.

        A caller that goes away does not end a run, so that its repeat finds the answer.

        Args:
            call: Receives the first answer's status and headers.
            secret: The credential as the caller sent it.
            wanted: The key.
            request: The request's bytes, the same for the same request.
            run: Handles the call.
            write: Serializes a response.

        Raises:
            DuplicateRequest, IdempotencyConflict: The key is in use.
            ClaimLost: The run took too long; it had no effect.
            DomainError: The first run's refusal.
        """
        attempt, now = _new_attempt(call, secret, wanted, request), self._clock.now()
        async with self._db.write(ALL_TENANTS) as conn:
            claimed = await conn.fetchval(
                CLAIM_KEY, attempt.tenant_id, attempt.scope, attempt.request_hash, attempt.id,
                CLAIM, now, now - KEEP,
            )  # fmt: skip
            found = None
            if not claimed:
                found = await conn.fetchrow(FIND_KEY, attempt.tenant_id, attempt.scope)
        if not claimed:
            return _again(call, attempt, found)
        task = asyncio.create_task(self._first(call, attempt, run, write))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(_seen)
        try:
            return await asyncio.shield(task)
        finally:
            # An error's traceback holds this frame, which must not hold the error.
            del task

    async def settle(self) -> None:
        """Wait for runs whose callers have gone; call it before the database is closed."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _first(
        self,
        call: Call,
        attempt: _Attempt,
        run: Callable[[], Awaitable[Any]],
        write: Callable[[Any], bytes],
    ) -> bytes:
        async def commit_early(unit: UnitOfWork, response: object) -> None:
            await self._commit(unit, attempt, attempt.seal(_success(call, write(response))))

        unit = self._db.new_unit(commit_early)
        try:
            with unit_of_work.entered(unit):
                body = write(await run())
        except DomainError as err:
            if 400 <= err.http_status < 500 and err.http_status not in _NOT_FINAL:
                await self._finish(unit, attempt, _refusal(err))
            else:
                await self._abandon(unit, attempt)
            raise
        except BaseException:
            await self._abandon(unit, attempt)
            raise
        await self._finish(unit, attempt, _success(call, body))
        return body

    async def _finish(self, unit: UnitOfWork, attempt: _Attempt, answer: dict[str, Any]) -> None:
        """Store the answer together with the effects, if there are any."""
        sealed = attempt.seal(answer)
        if unit.is_committed:
            await self._replace(attempt, sealed)
            return
        has_effects = unit.is_open
        try:
            await self._commit(unit, attempt, sealed)
        except (Unavailable, asyncpg.PostgresError, *database.CONNECTION_ERRORS):
            await self._release(attempt)
            if has_effects:
                raise
            # The caller receives its answer, and a repeat runs again.
            log.warning("answer_not_stored", exc_info=True)

    async def _commit(self, unit: UnitOfWork, attempt: _Attempt, sealed: bytes) -> None:
        async def complete(conn: Conn) -> None:
            if not await conn.fetchval(COMPLETE_KEY, *attempt.row, sealed):
                raise ClaimLost

        try:
            await unit.commit(ALL_TENANTS, complete)
        except CommitUnknown as err:
            if not await self._took_effect(attempt):
                raise database.database_unavailable() from err
            unit.settle()

    async def _took_effect(self, attempt: _Attempt) -> bool:
        """Whether a COMMIT that received no answer completed the key; if not, release the key.

        When PostgreSQL cannot be reached for too long this is false, and a repeat will find out.
        """
        deadline = time.monotonic() + RESOLVE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with self._db.write(ALL_TENANTS) as conn:
                    if await conn.fetchval(RELEASE_KEY, *attempt.row, timeout=left):
                        return False
                    return bool(await conn.fetchval(IS_COMPLETED, *attempt.row, timeout=left))
            except (Unavailable, asyncpg.PostgresError, *database.CONNECTION_ERRORS):
                log.warning("commit_outcome_unknown", exc_info=True)
            await asyncio.sleep(_RESOLVE_PAUSE_SECONDS)
        return False

    async def _abandon(self, unit: UnitOfWork, attempt: _Attempt) -> None:
        """Undo the run, so that a repeat can run at once."""
        if unit.is_committed:
            return
        try:
            await unit.rollback()
        except (asyncpg.PostgresError, *database.CONNECTION_ERRORS):
            log.warning("rollback_failed", exc_info=True)
        await self._release(attempt)

    async def _replace(self, attempt: _Attempt, sealed: bytes) -> None:
        try:
            async with self._db.write(ALL_TENANTS) as conn:
                await conn.execute(REPLACE_ANSWER, *attempt.row, sealed)
        except (DomainError, asyncpg.PostgresError, *database.CONNECTION_ERRORS):
            # Repeats receive the provisional answer.
            log.warning("answer_not_replaced", exc_info=True)

    async def _release(self, attempt: _Attempt) -> None:
        try:
            async with self._db.write(ALL_TENANTS) as conn:
                await conn.execute(RELEASE_KEY, *attempt.row)
        except (DomainError, asyncpg.PostgresError, *database.CONNECTION_ERRORS):
            log.warning("key_not_released", exc_info=True)


def _new_attempt(call: Call, secret: str, wanted: IdempotencyKey, request: bytes) -> _Attempt:
    request_hash = hashlib.sha256(request).digest()
    box_key = derive_key(secret, _PURPOSE)
    scope = hashlib.sha256(box_key)
    for part in (call.caller.kind, call.caller.id, call.method, *wanted.resource, wanted.key):
        scope.update(len(part).to_bytes(4, "big") + part.encode())
    if wanted.loose:
        scope.update(request_hash)
    tenant_id = call.caller.tenant_id or NO_TENANT
    return _Attempt(tenant_id, scope.digest(), request_hash, SecretBox(box_key), uuid4())


def _again(call: Call, attempt: _Attempt, found: asyncpg.Record | None) -> bytes:
    """Give the first answer again.

    Raises:
        DuplicateRequest, IdempotencyConflict: There is none, or it is another request's.
        DomainError: The first answer was a refusal.
    """
    if found is not None and found["request_hash"] != attempt.request_hash:
        raise IdempotencyConflict
    plain = found and found["answer"] and attempt.box.open(found["answer"], attempt.scope)
    if not plain:
        raise DuplicateRequest
    answer = orjson.loads(plain)
    call.headers.update(answer["headers"])
    call.headers["idempotent-replayed"] = "true"
    if answer["error"] is not None:
        raise _Refused(answer["error"])
    call.http_status = answer["http_status"]
    return base64.b64decode(answer["body"])


def _success(call: Call, body: bytes) -> dict[str, Any]:
    kept = {k: v for k, v in call.headers.items() if not k.startswith("x-ratelimit-")}
    return {
        "http_status": call.http_status,
        "headers": kept,
        "body": base64.b64encode(body).decode(),
        "error": None,
    }


def _refusal(err: DomainError) -> dict[str, Any]:
    return {
        "headers": {},
        "error": {
            "code": err.code.name,
            "http_status": err.http_status,
            "reason": err.reason,
            "message": err.message,
            "details": [[violation.field, violation.description] for violation in err.details],
            "suggestion": err.suggestion,
            "metadata": err.metadata,
        },
    }


class _Refused(DomainError):
    """What the first run was refused, said again."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__(
            said["message"],
            details=[Violation(*pair) for pair in said["details"]],
            suggestion=said["suggestion"],
            metadata=said["metadata"],
        )
        self.code = grpc.StatusCode[said["code"]]  # type: ignore[misc]
        self.http_status = said["http_status"]  # type: ignore[misc]
        self.reason = said["reason"]  # type: ignore[misc]


def _seen(task: asyncio.Task[bytes]) -> None:
    """Take note of an error that nobody waits for any more; whoever does sees it too."""
    if not task.cancelled():
        task.exception()
