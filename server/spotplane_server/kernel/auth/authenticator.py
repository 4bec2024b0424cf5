"""Authenticator: verifies credentials linearizably, without a query per call.

A credential once looked up stays in memory, but counts only while `auth_epoch`, read after the
request arrived, is the epoch it was looked up under. Every change that takes a right away bumps
that counter in its own transaction, so no call that starts after such a change was answered can
pass.
Concurrent requests share one read of the counter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

import asyncpg

from spotplane_server.kernel import metrics
from spotplane_server.kernel.auth import secrets
from spotplane_server.kernel.auth.client_address import Network, check_allowed
from spotplane_server.kernel.auth.spend_limits import SpendBlock
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.db.shared_reads import SharedReads
from spotplane_server.kernel.errors import Forbidden, Unauthenticated
from spotplane_server.kernel.request_context import Caller, Role, TenantId

CACHE_SIZE: Final = 20_000
# Longest wait for the epoch or a credential. Every call begins with one, so a call that meets a
# dead connection ends with UNAVAILABLE after this.
EPOCH_SECONDS: Final = 2.0

READ_EPOCH: Final = "SELECT epoch FROM auth_epoch"

# Whether each of some hashes is that of a credential of any kind, in their order.
FIND_CREDENTIALS: Final = """
    SELECT EXISTS (SELECT FROM api_keys k WHERE k.key_hash = h.hash)
           OR EXISTS (SELECT FROM admin_credentials a WHERE a.token_hash = h.hash)
           OR EXISTS (SELECT FROM agents g WHERE g.token_hash = h.hash) AS exists
      FROM unnest($1::bytea[]) WITH ORDINALITY AS h (hash, place)
     ORDER BY h.place
"""

BUMP_EPOCH: Final = "UPDATE auth_epoch SET epoch = epoch + 1"

FIND_API_KEY: Final = """
    SELECT e.epoch, k.id, k.tenant_id, k.environment_id, k.key_prefix, k.role, k.status,
           k.expires_at, k.suspension_id, k.rate_limit_rpm, k.rate_limit_tpm, k.concurrency_limit,
           t.status AS tenant_status, v.status AS environment_status,
           v.requests_per_minute AS environment_rpm, v.quota_tokens_per_minute AS environment_tpm,
           v.quota_tokens_per_day AS environment_tpd,
           v.concurrency_limit AS environment_concurrency, s.budget_id AS stopped_by,
           s.until AS stopped_until
      FROM auth_epoch e
      LEFT JOIN api_keys k ON k.key_hash = $1
      LEFT JOIN tenants t ON t.id = k.tenant_id
      LEFT JOIN environments v ON v.tenant_id = k.tenant_id AND v.id = k.environment_id
      LEFT JOIN LATERAL (
            SELECT p.budget_id, p.until
              FROM spend_stops p
             WHERE p.tenant_id = k.tenant_id
               AND (NOT p.by_key
                    OR EXISTS (SELECT
                                 FROM spend_budget_keys c
                                WHERE c.tenant_id = k.tenant_id
                                  AND c.budget_id = p.budget_id
                                  AND c.api_key_id = k.id))
             ORDER BY p.until DESC NULLS FIRST
             LIMIT 1) s ON true
"""

FIND_ADMIN: Final = """
    SELECT e.epoch, a.id, a.name, a.scopes, a.rate_limit_rpm, a.cidrs, a.expires_at, a.revoked_at
      FROM auth_epoch e
      LEFT JOIN admin_credentials a ON a.token_hash = $1
"""

FIND_AGENT: Final = """
    SELECT e.epoch, a.id, a.tenant_id, a.logical_agent_id, t.status AS tenant_status
      FROM auth_epoch e
      LEFT JOIN agents a ON a.token_hash = $1 AND a.deleted_at IS NULL
      LEFT JOIN tenants t ON t.id = a.tenant_id
"""


class AdminTokenMissing(Unauthenticated):
    """The method is for administrators and no token came."""

    reason = "ADMIN_TOKEN_MISSING"


class AdminTokenInvalid(Unauthenticated):
    """The administrator token is unknown, expired or revoked."""

    reason = "ADMIN_TOKEN_INVALID"


class ApiKeyMissing(Unauthenticated):
    """No key came."""

    reason = "API_KEY_MISSING"


class ApiKeyInvalid(Unauthenticated):
    """The key is malformed, unknown or revoked, or its tenant is deleted; one message for all."""

    reason = "API_KEY_INVALID"


class ApiKeyExpired(Unauthenticated):
    """The key's expiry has passed."""

    reason = "API_KEY_EXPIRED"


class AgentCredentialInvalid(Unauthenticated):
    """The agent's own credential is unknown or revoked."""

    reason = "AGENT_CREDENTIAL_INVALID"


class TenantSuspended(Forbidden):
    """The tenant is suspended."""

    reason = "TENANT_SUSPENDED"


class EnvironmentSuspended(Forbidden):
    """The environment is suspended."""

    reason = "ENVIRONMENT_SUSPENDED"


class KeySuspended(Forbidden):
    """The key is suspended on its own."""

    reason = "KEY_SUSPENDED"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request carries; at most one of the two is used."""

    admin_token: str | None
    bearer: str | None


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What a caller may use, of its key and of its environment; None where a layer does not apply.

    Attributes:
        key_rpm: Requests a minute of the key, or of the administrator.
        environment_rpm: The same of all keys of the environment.
        concurrency: Calls of the key that run at once.
        key_tpm: Tokens a minute of the key.
        environment_tpm: Tokens a minute of the environment.
        environment_tpd: Tokens a day of the environment.
        environment_concurrency: Calls of the environment that run at once.
    """

    key_rpm: int | None = None
    environment_rpm: int | None = None
    concurrency: int | None = None
    key_tpm: int | None = None
    environment_tpm: int | None = None
    environment_tpd: int | None = None
    environment_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class VerifiedCaller:
    """A caller whose right was proven under ``epoch``; ``expires_at`` is checked at each use.

    ``hashed`` is the credential's hash, by which the right can be proven again; ``cidrs`` are where
    it may be used from, anywhere when there are none; ``stop`` keeps a key from all but reading
    (`kernel.auth.spend_limits`).
    """

    caller: Caller
    budget: RateLimits
    epoch: int
    expires_at: datetime | None = None
    hashed: bytes = b""
    cidrs: tuple[Network, ...] = ()
    stop: SpendBlock | None = None


_K = TypeVar("_K")
_V = TypeVar("_V")

# The epoch under which a credential was looked up, and what it proves.
_Found: TypeAlias = tuple[int, VerifiedCaller | None]
_Loader: TypeAlias = Callable[[Conn, bytes], Awaitable[_Found]]


class EpochReader(SharedReads[None, int]):
    """Reads `auth_epoch` once for all requests that wait for it."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, _read_epoch, EPOCH_SECONDS)

    async def current(self) -> int:
        """The epoch, read after this call began.

        Raises:
            Unavailable: The database is away.
        """
        return await self.get(None)


async def _read_epoch(conn: Conn, waiting: Sequence[None]) -> Sequence[int]:
    return [await conn.fetchval(READ_EPOCH, timeout=EPOCH_SECONDS)] * len(waiting)


async def _find_credentials(conn: Conn, hashes: Sequence[bytes]) -> Sequence[bool]:
    found = await conn.fetch(FIND_CREDENTIALS, list(hashes), timeout=EPOCH_SECONDS)
    return [row["exists"] for row in found]


class Authenticator:
    """Turns credentials into callers.

    Args:
        db: The database.
        clock: For expiry.
        admin_networks: Where administrators may call from; anywhere when there are none.
    """

    def __init__(self, db: Database, clock: Clock, admin_networks: Sequence[Network] = ()) -> None:
        self._db = db
        self._clock = clock
        self._admin_networks = admin_networks
        self._epochs = EpochReader(db)
        self._existing = SharedReads(db, _find_credentials, EPOCH_SECONDS)
        self._cache: OrderedDict[bytes, VerifiedCaller] = OrderedDict()
        # Credentials that were refused, each with the epoch under which it was looked up.
        self._refused: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self._used: dict[UUID, datetime] = {}
        self._hits, self._misses = (metrics.AUTH_CACHE.labels(to) for to in ("hit", "miss"))

    async def admin(self, token: str | None, address: str | None) -> VerifiedCaller:
        """Prove an administrator who calls from an address.

        Raises:
            IpNotAllowed: Nobody may from there, or not with this token.
            AdminTokenMissing, AdminTokenInvalid: It is none.
        """
        # Before the token is looked at: from elsewhere nobody learns whether one is good.
        check_allowed(address, self._admin_networks)
        if not token:
            raise AdminTokenMissing("missing admin token")
        return await self._admin(secrets.hash_of(token), address)

    async def bearer(self, token: str | None) -> VerifiedCaller:
        """Prove a tenant key, or an agent's own credential.

        Raises:
            ApiKeyMissing, ApiKeyInvalid, ApiKeyExpired, TenantSuspended, EnvironmentSuspended,
            KeySuspended, AgentCredentialInvalid: In the documented order.
        """
        if not token:
            raise ApiKeyMissing("missing authorization header")
        label = secrets.label_of(token)
        if label is None:
            raise ApiKeyInvalid("invalid API key")
        hashed = secrets.hash_of(token)
        return await (self._agent(hashed) if label == secrets.AGENT_LABEL else self._key(hashed))

    async def again(self, kind: str, hashed: bytes, address: str | None) -> VerifiedCaller:
        """Prove a credential by its hash: one that was proven before, or that a ticket stands for.

        Args:
            kind: ``admin``, ``tenant`` or ``agent``, as in `Caller`.
            hashed: Of the credential.
            address: Where it is used from; matters for administrators.

        Raises:
            Unauthenticated, Forbidden: As `admin` and `bearer` do.
        """
        if kind == "admin":
            check_allowed(address, self._admin_networks)
            return await self._admin(hashed, address)
        return await (self._agent(hashed) if kind == "agent" else self._key(hashed))

    async def exists(self, token: str) -> bool:
        """Whether a credential exists, in whatever state.

        Cheaper than a proof: any number of callers uses one connection.
        """
        hashed = secrets.hash_of(token)
        return hashed in self._cache or await self._existing.get(hashed)

    async def _admin(self, hashed: bytes, address: str | None) -> VerifiedCaller:
        verified = await self._verify(hashed, "admin", self._load_admin)
        if verified is not None:
            check_allowed(address, verified.cidrs)
        if verified is None or self._expired(verified):
            raise AdminTokenInvalid("invalid admin token")
        return verified

    async def _agent(self, hashed: bytes) -> VerifiedCaller:
        verified = await self._verify(hashed, "agent", self._load_agent)
        if verified is None:
            raise AgentCredentialInvalid("invalid agent credential")
        return verified

    async def _key(self, hashed: bytes) -> VerifiedCaller:
        verified = await self._verify(hashed, "tenant", self._load_key)
        if verified is None:
            raise ApiKeyInvalid("invalid API key")
        if self._expired(verified):
            raise ApiKeyExpired("the API key has expired")
        self._used[UUID(verified.caller.id)] = self._clock.now()
        return verified

    async def epoch(self) -> int:
        """The epoch now; open streams verify again when it has moved."""
        return await self._epochs.current()

    def take_used(self) -> dict[UUID, datetime]:
        """Keys used since the last call, each with its last use."""
        used, self._used = self._used, {}
        return used

    def _expired(self, verified: VerifiedCaller) -> bool:
        return verified.expires_at is not None and verified.expires_at <= self._clock.now()

    async def _verify(self, hashed: bytes, kind: str, load: _Loader) -> VerifiedCaller | None:
        known = self._cache.get(hashed)
        if known is not None and known.epoch == await self._epochs.current():
            self._hits.inc()
            # A credential presented as another kind is rejected.
            return known if known.caller.kind == kind else None
        refused = self._refused.get((kind, hashed))
        if refused is not None and refused == await self._epochs.current():
            self._hits.inc()
            return None
        self._misses.inc()
        self._cache.pop(hashed, None)
        async with self._db.connection(ALL_TENANTS) as conn:
            epoch, verified = await load(conn, hashed)
        if verified is not None:
            _keep(self._cache, hashed, verified)
        else:
            _keep(self._refused, (kind, hashed), epoch)
        return verified

    async def _load_key(self, conn: Conn, hashed: bytes) -> _Found:
        row = await _look_up(conn, FIND_API_KEY, hashed)
        if row["id"] is None or row["status"] == "revoked":
            return row["epoch"], None
        if row["tenant_status"] == "deleted":
            return row["epoch"], None
        expired = row["expires_at"] is not None and row["expires_at"] <= self._clock.now()
        if not expired:
            _refuse_suspended(row)
        role: Role = row["role"]
        verified = VerifiedCaller(
            Caller(
                "tenant",
                str(row["id"]),
                row["key_prefix"],
                TenantId(row["tenant_id"]),
                row["environment_id"],
                role,
            ),
            RateLimits(
                row["rate_limit_rpm"],
                row["environment_rpm"],
                row["concurrency_limit"],
                row["rate_limit_tpm"],
                row["environment_tpm"],
                row["environment_tpd"],
                row["environment_concurrency"],
            ),
            row["epoch"],
            row["expires_at"],
            hashed,
            stop=SpendBlock(row["stopped_by"], row["stopped_until"]) if row["stopped_by"] else None,
        )
        return verified.epoch, verified

    async def _load_admin(self, conn: Conn, hashed: bytes) -> _Found:
        row = await _look_up(conn, FIND_ADMIN, hashed)
        if row["id"] is None or row["revoked_at"] is not None:
            return row["epoch"], None
        verified = VerifiedCaller(
            Caller("admin", str(row["id"]), row["name"], scopes=frozenset(row["scopes"])),
            RateLimits(row["rate_limit_rpm"]),
            row["epoch"],
            row["expires_at"],
            hashed,
            tuple(row["cidrs"]),
        )
        return verified.epoch, verified

    async def _load_agent(self, conn: Conn, hashed: bytes) -> _Found:
        row = await _look_up(conn, FIND_AGENT, hashed)
        if row["id"] is None or row["tenant_status"] == "deleted":
            return row["epoch"], None
        if row["tenant_status"] == "suspended":
            raise TenantSuspended("the tenant is suspended")
        verified = VerifiedCaller(
            Caller("agent", str(row["id"]), row["logical_agent_id"], TenantId(row["tenant_id"])),
            RateLimits(),
            row["epoch"],
            hashed=hashed,
        )
        return verified.epoch, verified


async def bump_epoch(conn: Conn) -> None:
    """Make every server verify again; call it in the transaction that takes a right away."""
    await conn.execute(BUMP_EPOCH)


async def _look_up(conn: Conn, query: str, hashed: bytes) -> asyncpg.Record:
    row = await conn.fetchrow(query, hashed)
    assert row is not None, "auth_epoch has one row"
    return row


def _keep(cache: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    """Put an entry into a cache of bounded size; the oldest one leaves."""
    cache[key] = value
    if len(cache) > CACHE_SIZE:
        cache.popitem(last=False)


def _refuse_suspended(row: asyncpg.Record) -> None:
    if row["tenant_status"] == "suspended":
        raise TenantSuspended("the tenant is suspended")
    if row["environment_status"] == "suspended":
        raise EnvironmentSuspended("the environment is suspended")
    if row["status"] == "suspended":
        raise KeySuspended("the API key is suspended")
