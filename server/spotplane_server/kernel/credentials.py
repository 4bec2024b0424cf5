"""What a call carries to prove its caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spotplane_server.kernel import policy
from spotplane_server.kernel.auth import (
    AdminTokenMissing,
    ApiKeyInvalid,
    ApiKeyMissing,
    Authenticator,
    Verified,
)
from spotplane_server.kernel.secrets import label_of

MISSING = (ApiKeyMissing, AdminTokenMissing)


class Tokens(NamedTuple):
    """What a call carries; at most one of them is looked at.

    Attributes:
        admin: Of an administrator.
        bearer: Of a tenant, an agent or an administrator.
        ticket: A ticket, looked at when there is neither.
        path: Path and query of REST, for which a ticket must be.
        either: Whether the caller is of a family whose administrators and tenants share all
            methods: there a tenant's key on an administrator's method is known and not allowed,
            elsewhere it is no credential at all.
    """

    admin: str | None
    bearer: str | None
    ticket: str | None
    path: str
    either: bool

    @property
    def secret(self) -> str | None:
        """The credential that is looked at."""
        return self.admin or self.bearer or self.ticket


def tokens(metadata: Mapping[str, str]) -> Tokens:
    """Read a call's metadata."""
    authorization = metadata.get("authorization", "").strip()
    scheme, _, rest = authorization.partition(" ")
    bearer = rest.strip() if scheme.lower() == "bearer" else authorization
    return Tokens(
        metadata.get("x-admin-token"),
        bearer or metadata.get("x-client-token"),
        metadata.get("x-spotplane-ticket"),
        metadata.get("x-spotplane-path", ""),
        metadata.get("x-spotplane-family") == "fleet",
    )


async def prove(auth: Authenticator, access: policy.Access, given: Tokens) -> Verified:
    """Prove a caller by its admin token or its bearer.

    Raises:
        Unauthenticated, Forbidden: It cannot be proven.
    """
    admin, bearer = given.admin, given.bearer
    if admin or (access.admin_only and not given.either):
        return await auth.admin(admin or _admin_bearer(bearer))
    if bearer and bearer.startswith("sp_admin_"):
        return await auth.admin(bearer)
    try:
        return await auth.bearer(bearer)
    except ApiKeyInvalid:
        # An administrator's token may have any form, since operators set the first one.
        if bearer and given.either and label_of(bearer) == "":
            return await auth.admin(bearer)
        raise


def _admin_bearer(bearer: str | None) -> str | None:
    return bearer if bearer and bearer.startswith("sp_admin_") else None
