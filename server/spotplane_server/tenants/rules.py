"""Pure rules of tenants and keys: limits and state transitions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.kernel.auth.policy import RoleForbidden
from spotplane_server.kernel.request_context import Role
from spotplane_server.tenants import errors

TENANT_STATUSES: Final = ("active", "suspended", "deleted")
TIERS: Final = ("serverless", "reserved", "enterprise")
KEY_STATUSES: Final = ("active", "suspended", "revoked")
ROLES: Final[tuple[Role, ...]] = ("read_only", "developer", "admin", "agent")

DEFAULT_TIER: Final = "serverless"
DEFAULT_ROLE: Final[Role] = "developer"
DEFAULT_ENVIRONMENT: Final = "production"

# Per tenant, neither revoked nor expired; equals the maximum page size of the list.
MAX_LIVE_KEYS: Final = 1000
MAX_RPM: Final = 1_000_000
MAX_TPM: Final = 2**31 - 1
MAX_CONCURRENCY: Final = 10_000
# Maximum limits of an environment, which has many keys.
MAX_ENVIRONMENT_RPM: Final = 10_000_000
MAX_TPD: Final = 10**15
MAX_ENVIRONMENT_CONCURRENCY: Final = 1_000_000
DEFAULT_GRACE_SECONDS: Final = 86_400
MAX_GRACE_SECONDS: Final = 604_800
# Maximum grace period of a client token.
MAX_CLIENT_GRACE_SECONDS: Final = 86_400
MAX_LOCAL: Final = 200

_MANAGED: Final[dict[Role | None, frozenset[str]]] = {
    "developer": frozenset({"read_only", "developer"}),
    "admin": frozenset(ROLES),
}
# Changes of these fields affect authorization and so invalidate cached credentials.
_RIGHTS: Final = frozenset(
    {"role", "rate_limit_rpm", "rate_limit_tpm", "concurrency_limit", "expires_at"}
)


def check_not_deleted(status: str) -> None:
    """Check that a tenant can be changed.

    Raises:
        TenantDeleted: It is deleted.
    """
    if status == "deleted":
        raise errors.TenantDeleted


def check_can_suspend(status: str) -> None:
    """Check that a tenant can be suspended.

    Raises:
        TenantDeleted, TenantAlreadySuspended: It is not active.
    """
    check_not_deleted(status)
    if status == "suspended":
        raise errors.TenantAlreadySuspended


def check_can_activate(status: str) -> None:
    """Check that a tenant can be activated.

    Raises:
        TenantDeleted, TenantAlreadyActive: It is not suspended.
    """
    check_not_deleted(status)
    if status == "active":
        raise errors.TenantAlreadyActive


def check_can_hold_keys(tenant_status: str) -> None:
    """Check that keys of a tenant can be created or activated.

    Raises:
        TenantNotActive: It is suspended or deleted.
    """
    if tenant_status != "active":
        raise errors.TenantNotActive(tenant_status)


def check_not_revoked(status: str) -> None:
    """Check that a key can be changed.

    Raises:
        KeyRevoked: It is revoked.
    """
    if status == "revoked":
        raise errors.KeyRevoked


def check_can_suspend_key(status: str, suspension_id: UUID | None) -> None:
    """Check that a key can be suspended by itself, even if its tenant's suspension suspended it.

    Raises:
        KeyRevoked, KeyAlreadySuspended: The state forbids it.
    """
    check_not_revoked(status)
    if status == "suspended" and suspension_id is None:
        raise errors.KeyAlreadySuspended


def check_can_activate_key(status: str, tenant_status: str) -> None:
    """Check that a key can be activated.

    Raises:
        KeyRevoked, TenantNotActive, KeyAlreadyActive: The state forbids it.
    """
    check_not_revoked(status)
    check_can_hold_keys(tenant_status)
    if status == "active":
        raise errors.KeyAlreadyActive


def check_can_rotate(status: str, replaced_by: UUID | None) -> None:
    """Check that a key can be rotated: it is active and has no successor.

    Raises:
        KeyRevoked, KeyNotActive: It is not active or has a successor.
    """
    check_not_revoked(status)
    if status != "active":
        raise errors.KeyNotActive(status)
    if replaced_by is not None:
        raise errors.KeyNotActive("rotated")


def check_may_manage(caller: Role | None, target: str) -> None:
    """Check that a tenant's key may manage keys of a role.

    Raises:
        RoleForbidden: The target's role is above the caller's, or is ``agent`` and the caller's
            is not ``admin``.
    """
    if target not in _MANAGED.get(caller, frozenset()):
        raise RoleForbidden(
            f"role {caller} may not manage keys of role {target}", role=str(caller), target=target
        )


def old_key_expires_at(expires_at: datetime | None, now: datetime, grace_seconds: int) -> datetime:
    """Return the expiry of a rotated key: the end of the grace period, at most its own expiry."""
    end = now + timedelta(seconds=grace_seconds)
    return end if expires_at is None else min(expires_at, end)


def affects_authorization(changed: Iterable[str]) -> bool:
    """Return whether a change of these fields must take effect immediately on all servers."""
    return not _RIGHTS.isdisjoint(changed)


def placeholder_email(name: str, number: int) -> str:
    """Return a placeholder address for a tenant without one; no mail is sent to it.

    Args:
        name: The tenant's name.
        number: 1 for the first choice; higher numbers are appended if it is taken.
    """
    local = re.sub(r"\s", "_", name.strip().lower()).replace("@", "")[:MAX_LOCAL] or "client"
    return f"{local}{number if number > 1 else ''}@example.com"


def rotation_message(grace_seconds: int) -> str:
    """Return the human-readable message of a rotation."""
    if not grace_seconds:
        return "token regenerated; the old one is not valid any more"
    return f"token regenerated; the old one stays valid for {grace_seconds} s"


def mask_secret(prefix: str, suffix: str | None) -> str:
    """Mask a secret except its first 6 and last 4 characters."""
    return f"{prefix[:6]}…{suffix or ''}"


def name_from_email(email: str) -> str:
    """Derive a tenant's name from its e-mail."""
    return email.rpartition("@")[0][:255]
