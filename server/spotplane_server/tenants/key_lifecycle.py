"""Lifecycle of API keys, in the caller's transaction: create, rotate, revoke, suspend, activate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from spotplane_server.kernel.auth import secrets
from spotplane_server.kernel.auth.authenticator import bump_epoch
from spotplane_server.kernel.db import quotas
from spotplane_server.kernel.db.database import Conn
from spotplane_server.tenants import errors, events, keys_store, rules
from spotplane_server.tenants.keys_store import Draft, Key

# Length of the suffix: part of the checksum, which reveals nothing about the random part.
SUFFIX_LENGTH: Final = 4


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key and its secret, which is not stored."""

    key: Key
    secret: str


@dataclass(frozen=True, slots=True)
class Rotation:
    """The successor of a key, and the expiry of the old key."""

    successor: IssuedKey
    old: Key
    old_expires_at: datetime


async def create(
    conn: Conn, tenant_id: UUID, environment_id: UUID | None, draft: Draft, *, now: datetime
) -> IssuedKey:
    """Create a key in an environment, by default in the tenant's ``production``.

    Raises:
        TenantNotFound, TenantNotActive, EnvironmentNotFound, NoActiveEnvironment: The tenant
            or environment is absent or inactive.
        QuotaExceeded: The tenant has reached its maximum number of keys.
    """
    status = await keys_store.lock_tenant_shared(conn, tenant_id)
    if status is None:
        raise errors.TenantNotFound(tenant_id)
    rules.check_can_hold_keys(status)
    found = await keys_store.lock_environment_shared(
        conn, tenant_id, environment_id, rules.DEFAULT_ENVIRONMENT
    )
    if found is None and environment_id is not None:
        raise errors.EnvironmentNotFound(environment_id)
    if found is None or found.status != "active":
        raise errors.NoActiveEnvironment
    await _check_quota(conn, tenant_id, now)
    issued = await _issue(conn, tenant_id, found.id, found.key_label, draft, now=now)
    shown = _audit_fields(issued.key)
    await events.record_key_change(
        conn,
        tenant_id,
        issued.key.id,
        ("create", "created"),
        before=None,
        after=shown,
        data=shown,
        now=now,
    )
    return issued


async def rotate(
    conn: Conn,
    key: Key,
    *,
    expires_at: datetime | None,
    grace_seconds: int,
    now: datetime,
    is_client_token: bool = False,
) -> Rotation:
    """Create the successor of a key locked by the caller.

    Raises:
        KeyRevoked, KeyNotActive: The key is not active, or has a successor already.
        QuotaExceeded: Both keys together would exceed the quota during the grace period.
    """
    rules.check_can_rotate(key.status, key.replaced_by)
    draft = Draft(
        key.name,
        key.description,
        key.role,
        key.rate_limit_rpm,
        key.rate_limit_tpm,
        key.concurrency_limit,
        expires_at,
        key.id,
        is_client_token,
    )
    home = await keys_store.lock_environment_shared(
        conn, key.tenant_id, key.environment_id, rules.DEFAULT_ENVIRONMENT
    )
    if home is None:
        raise errors.EnvironmentNotFound(key.environment_id)
    ends = rules.old_key_expires_at(key.expires_at, now, grace_seconds)
    if ends > now:
        await _check_quota(conn, key.tenant_id, now)
    issued = await _issue(conn, key.tenant_id, home.id, home.key_label, draft, now=now)
    await keys_store.retire_key(conn, key, expires_at=ends, replaced_by=issued.key.id, now=now)
    await events.record_key_change(
        conn,
        key.tenant_id,
        key.id,
        ("rotate", "rotated"),
        before={"expires_at": key.expires_at},
        after={"expires_at": ends, "replaced_by": issued.key.id},
        data={"new_key_id": issued.key.id, "old_key_expires_at": ends},
        now=now,
    )
    await bump_epoch(conn)
    return Rotation(issued, key, ends)


async def revoke(conn: Conn, key: Key, *, now: datetime) -> None:
    """Revoke a key locked by the caller.

    Raises:
        KeyRevoked: It is revoked already.
    """
    rules.check_not_revoked(key.status)
    await set_status(conn, key, "revoked", ("revoke", "revoked"), reason=None, now=now)


async def set_status(
    conn: Conn,
    key: Key,
    status: str,
    verb: tuple[str, str],
    *,
    reason: str | None,
    now: datetime,
) -> Key:
    """Set the status of a key locked by the caller; the caller has checked the transition."""
    after = await keys_store.set_key_status(conn, key, status, now=now)
    reason_field = {} if reason is None else {"reason": reason}
    await events.record_key_change(
        conn,
        key.tenant_id,
        key.id,
        verb,
        before={"status": key.status},
        after={"status": status, **reason_field},
        data={"previous_status": key.status, **reason_field},
        now=now,
    )
    await bump_epoch(conn)
    return after


async def _check_quota(conn: Conn, tenant_id: UUID, now: datetime) -> None:
    await quotas.admit(
        conn,
        tenant_id,
        "api_keys",
        rules.MAX_LIVE_KEYS,
        lambda: keys_store.count_live(conn, tenant_id, now=now),
    )


async def _issue(
    conn: Conn, tenant_id: UUID, environment_id: UUID, label: str, draft: Draft, *, now: datetime
) -> IssuedKey:
    secret = secrets.issue(label)
    key = await keys_store.insert_key(
        conn,
        draft,
        tenant_id=tenant_id,
        key_id=uuid4(),
        environment_id=environment_id,
        key_hash=secret.hash,
        key_prefix=secret.prefix,
        key_suffix=secret.secret[-SUFFIX_LENGTH:],
        now=now,
    )
    return IssuedKey(key, secret.secret)


def _audit_fields(key: Key) -> dict[str, object]:
    return {
        "name": key.name,
        "role": key.role,
        "environment_id": key.environment_id,
        "key_prefix": key.key_prefix,
        "rate_limit_rpm": key.rate_limit_rpm,
        "rate_limit_tpm": key.rate_limit_tpm,
        "concurrency_limit": key.concurrency_limit,
        "expires_at": key.expires_at,
    }
