"""Pure decisions about tenants and keys."""

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

# Per tenant, neither revoked nor expired: as many as one page of the list shows.
MAX_LIVE_KEYS: Final = 1000
MAX_RPM: Final = 1_000_000
MAX_TPM: Final = 2**31 - 1
MAX_CONCURRENCY: Final = 10_000
# Of an environment, which has many keys.
MAX_ENVIRONMENT_RPM: Final = 10_000_000
MAX_TPD: Final = 10**15
MAX_ENVIRONMENT_CONCURRENCY: Final = 1_000_000
DEFAULT_GRACE_SECONDS: Final = 86_400
MAX_GRACE_SECONDS: Final = 604_800
# Of a client token.
MAX_CLIENT_GRACE_SECONDS: Final = 86_400
MAX_LOCAL: Final = 200

_MANAGED: Final[dict[Role | None, frozenset[str]]] = {
    "developer": frozenset({"read_only", "developer"}),
    "admin": frozenset(ROLES),
}
# Whoever calls with the key may do less, or other things, after one of these changes.
_RIGHTS: Final = frozenset(
    {"role", "rate_limit_rpm", "rate_limit_tpm", "concurrency_limit", "expires_at"}
)


def check_not_deleted(status: str) -> None:
    """Let a tenant be changed unless it is deleted.

    Raises:
        TenantDeleted: It is.
    """
    if status == "deleted":
        raise errors.TenantDeleted


def check_can_suspend(status: str) -> None:
    """Let an active tenant be suspended.

    Raises:
        TenantDeleted, TenantAlreadySuspended: It is not active.
    """
    check_not_deleted(status)
    if status == "suspended":
        raise errors.TenantAlreadySuspended


def check_can_activate(status: str) -> None:
    """Let a suspended tenant be activated.

    Raises:
        TenantDeleted, TenantAlreadyActive: It is not suspended.
    """
    check_not_deleted(status)
    if status == "active":
        raise errors.TenantAlreadyActive


def check_can_hold_keys(tenant_status: str) -> None:
    """Let only an active tenant get or regain keys.

    Raises:
        TenantNotActive: It is suspended or deleted.
    """
    if tenant_status != "active":
        raise errors.TenantNotActive(tenant_status)


def check_not_revoked(status: str) -> None:
    """Let a key be changed unless it is revoked.

    Raises:
        KeyRevoked: It is.
    """
    if status == "revoked":
        raise errors.KeyRevoked


def check_can_suspend_key(status: str, suspension_id: UUID | None) -> None:
    """Let a key be suspended on its own, also one that only its tenant's suspension holds.

    Raises:
        KeyRevoked, KeyAlreadySuspended: It cannot be.
    """
    check_not_revoked(status)
    if status == "suspended" and suspension_id is None:
        raise errors.KeyAlreadySuspended


def check_can_activate_key(status: str, tenant_status: str) -> None:
    """Let a suspended key of an active tenant be activated.

    Raises:
        KeyRevoked, TenantNotActive, KeyAlreadyActive: It cannot be.
    """
    check_not_revoked(status)
    check_can_hold_keys(tenant_status)
    if status == "active":
        raise errors.KeyAlreadyActive


def check_can_rotate(status: str, replaced_by: UUID | None) -> None:
    """Let only an active key have a successor, and only one.

    Raises:
        KeyRevoked, KeyNotActive: It is not active, or was rotated already.
    """
    check_not_revoked(status)
    if status != "active":
        raise errors.KeyNotActive(status)
    if replaced_by is not None:
        raise errors.KeyNotActive("rotated")


def check_may_manage(caller: Role | None, target: str) -> None:
    """Let a tenant's key manage keys of roles that it may hand out.

    Raises:
        RoleForbidden: The target's role is above the caller's, or is ``agent`` and the caller's
            is not ``admin``.
    """
    if target not in _MANAGED.get(caller, frozenset()):
        raise RoleForbidden(
            f"role {caller} may not manage keys of role {target}", role=str(caller), target=target
        )


def retires_at(expires_at: datetime | None, now: datetime, grace_seconds: int) -> datetime:
    """When a rotated key dies: after the grace, never later than it would have anyway."""
    end = now + timedelta(seconds=grace_seconds)
    return end if expires_at is None else min(expires_at, end)


def touches_rights(changed: Iterable[str]) -> bool:
    """Whether a change of these fields of a key must take effect at once everywhere."""
    return not _RIGHTS.isdisjoint(changed)


def made_up_email(name: str, number: int) -> str:
    """An address for a tenant of whom only the name is known; nothing is ever sent there.

    Args:
        name: The tenant's.
        number: 1 for the first choice; above, the number tells it from those that are taken.
    """
    local = re.sub(r"\s", "_", name.strip().lower()).replace("@", "")[:MAX_LOCAL] or "client"
    return f"{local}{number if number > 1 else ''}@example.com"


def what_became_of_the_old_token(grace_seconds: int) -> str:
    """What a rotation tells a person."""
    if not grace_seconds:
        return "token regenerated; the old one is not valid any more"
    return f"token regenerated; the old one stays valid for {grace_seconds} s"


def masked(prefix: str, suffix: str | None) -> str:
    """What may be shown of a secret: its first 6 and last 4 characters."""
    return f"{prefix[:6]}…{suffix or ''}"


def name_from_email(email: str) -> str:
    """A name for a tenant of whom only the e-mail is known."""
    return email.rpartition("@")[0][:255]
