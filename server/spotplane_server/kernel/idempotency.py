"""Writes that may be repeated under a key: the first final answer is kept for 24 h and given again.

An answer may hold a fresh token, and tokens are kept as hashes only. So it is encrypted under the
caller's credential, which the database does not have either.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import grpc
import orjson
import structlog

from spotplane_server.kernel import db
from spotplane_server.kernel.calls import Call
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import EVERY_TENANT, Database
from spotplane_server.kernel.errors import (
    AlreadyExists,
    Conflict,
    DomainError,
    Invalid,
    Violation,
)
from spotplane_server.kernel.sealing import Box, derived

log = structlog.get_logger(__name__)

KEEP: Final = timedelta(hours=24)
# Longer than any call's deadline; a server that dies holds a key up for this long.
CLAIM: Final = timedelta(seconds=90)
NO_TENANT: Final = UUID(int=0)

_KEY: Final = re.compile(r"[\x20-\x7e]{8,128}")
_PURPOSE: Final = b"spotplane idempotent answers"
# Answers that are not final: another try may end otherwise.
_NOT_FINAL: Final = frozenset({401, 429})

CLAIM_KEY: Final = """
    INSERT INTO idempotency_keys AS k (tenant_id, scope, request_hash, attempt, claimed_until,
                                       created_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (tenant_id, scope) DO UPDATE
       SET request_hash = $3, attempt = $4, claimed_until = $5, answer = NULL, created_at = $6
     WHERE (k.answer IS NULL AND k.claimed_until <= $6)
        OR k.created_at <= $7
    RETURNING true
"""

FIND_KEY: Final = """
    SELECT request_hash, answer
      FROM idempotency_keys
     WHERE tenant_id = $1
       AND scope = $2
"""

KEEP_ANSWER: Final = """
    UPDATE idempotency_keys
       SET answer = $4
     WHERE tenant_id = $1
       AND scope = $2
       AND attempt = $3
"""

RELEASE_KEY: Final = """
    DELETE FROM idempotency_keys
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


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller says about repeating.

    Attributes:
        key: The key.
        path: Method and path of REST, or the RPC's name; the key belongs to it.
        loose: Whether another request under the same key is simply another one: some clients of the
            field send one `X-Request-ID` for ever.
    """

    key: str
    path: str
    loose: bool


def wish(metadata: Mapping[str, str], method: str) -> Wish | None:
    """Read a call's metadata; None when it names no key.

    Raises:
        Invalid: The key is not 8 to 128 printable characters.
    """
    key = metadata.get("idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise Invalid("the key must be 8 to 128 printable characters", field="idempotency-key")
    path = metadata.get("x-idempotency-scope") or metadata.get("x-envoy-original-path") or method
    return Wish(key, path, metadata.get("x-idempotency-alias") == "x-request-id")


class Repeats:
    """Runs each keyed call once, and answers its repeats."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._running: set[asyncio.Task[bytes]] = set()

    async def answer(
        self,
        call: Call,
        secret: str,
        wanted: Wish,
        request: bytes,
        run: Callable[[], Awaitable[bytes]],
    ) -> bytes:
        """The bytes of the response: of this run, or of the first.

        A caller that goes away does not end a run: its repeat is to find the answer.

        Args:
            call: Gets the first answer's status and headers.
            secret: The credential as the caller sent it.
            wanted: The key.
            request: The request's bytes, the same for the same request.
            run: Does the work.

        Raises:
            DuplicateRequest, IdempotencyConflict: The key is taken.
            DomainError: What the first run was refused.
        """
        place = _place(call, secret, wanted, request)
        attempt, now = uuid4(), self._clock.now()
        async with self._db.read(EVERY_TENANT) as conn:
            claimed = await conn.fetchval(
                CLAIM_KEY, place.tenant_id, place.scope, place.request_hash, attempt, now + CLAIM,
                now, now - KEEP,
            )  # fmt: skip
            found = None if claimed else await conn.fetchrow(FIND_KEY, place.tenant_id, place.scope)
        if not claimed:
            return _again(call, place, found)
        task = asyncio.create_task(self._first(call, place, attempt, run))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait for runs whose callers have gone; call it before the database is closed."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _first(
        self, call: Call, place: _Place, attempt: UUID, run: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        try:
            body = await run()
        except DomainError as err:
            if 400 <= err.http_status < 500 and err.http_status not in _NOT_FINAL:
                await self._keep(place, attempt, _refusal(err))
            else:
                await self._release(place, attempt)
            raise
        except BaseException:
            await self._release(place, attempt)
            raise
        await self._keep(place, attempt, _success(call, body))
        return body

    async def _keep(self, place: _Place, attempt: UUID, answer: dict[str, Any]) -> None:
        sealed = place.box.seal(orjson.dumps(answer), place.scope)
        try:
            async with self._db.read(EVERY_TENANT) as conn:
                await conn.execute(KEEP_ANSWER, place.tenant_id, place.scope, attempt, sealed)
        except (DomainError, asyncpg.PostgresError, *db.AWAY):
            # The work is done, so the caller gets its answer; a repeat waits till the claim lapses.
            log.warning("answer_not_kept", exc_info=True)

    async def _release(self, place: _Place, attempt: UUID) -> None:
        try:
            async with self._db.read(EVERY_TENANT) as conn:
                await conn.execute(RELEASE_KEY, place.tenant_id, place.scope, attempt)
        except (DomainError, asyncpg.PostgresError, *db.AWAY):
            log.warning("key_not_released", exc_info=True)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a key lives, and what opens its answer."""

    tenant_id: UUID
    scope: bytes
    request_hash: bytes
    box: Box


def _place(call: Call, secret: str, wanted: Wish, request: bytes) -> _Place:
    request_hash = hashlib.sha256(request).digest()
    box_key = derived(secret, _PURPOSE)
    scope = hashlib.sha256(box_key)
    for part in (call.caller.kind, call.caller.id, call.method, wanted.path, wanted.key):
        scope.update(len(part).to_bytes(4, "big") + part.encode())
    if wanted.loose:
        scope.update(request_hash)
    return _Place(call.caller.tenant_id or NO_TENANT, scope.digest(), request_hash, Box(box_key))


def _again(call: Call, place: _Place, found: asyncpg.Record | None) -> bytes:
    """Give the first answer again.

    Raises:
        DuplicateRequest, IdempotencyConflict: There is none, or it is another request's.
        DomainError: The first answer was a refusal.
    """
    if found is not None and found["request_hash"] != place.request_hash:
        raise IdempotencyConflict
    plain = found and found["answer"] and place.box.open(found["answer"], place.scope)
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
