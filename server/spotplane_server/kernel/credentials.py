"""What a call carries to prove its caller, and the proof."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from spotplane_server.kernel import budgets, limits, policy
from spotplane_server.kernel.auth import (
    AdminTokenMissing,
    ApiKeyInvalid,
    ApiKeyMissing,
    Authenticator,
    Verified,
)
from spotplane_server.kernel.calls import Call
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.errors import Unauthenticated
from spotplane_server.kernel.limits import Layer, Limiter, LimitReached
from spotplane_server.kernel.secrets import label_of
from spotplane_server.kernel.tickets import TicketInvalid, Tickets

# No credential came: nobody tried anything.
MISSING: Final = (ApiKeyMissing, AdminTokenMissing)


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


class Prover:
    """Proves callers by what their calls carry.

    Args:
        auth: Knows credentials.
        tickets: Of browsers.
        limiter: Counts failures.
        clock: For windows.
        failures_per_minute: Of one address, before it is asked to wait.
    """

    def __init__(
        self,
        auth: Authenticator,
        tickets: Tickets,
        limiter: Limiter,
        clock: Clock,
        *,
        failures_per_minute: int,
    ) -> None:
        self.auth = auth
        self._tickets = tickets
        self._limiter = limiter
        self._clock = clock
        self._failures = failures_per_minute

    async def prove(self, access: policy.Access, call: Call, given: Tokens) -> Verified:
        """Prove a caller; an address that fails too often waits, unless it is known to be right.

        Raises:
            Unauthenticated, Forbidden: It cannot be proven.
            LimitReached: Its address has failed too often.
        """
        failures = budgets.auth_failures(call.client_ip, self._failures)
        now = self._clock.now()
        if given.secret is not None and not self.auth.remembers(given.secret):
            self._may_fail(failures, now.timestamp(), charge=False)
        try:
            if given.ticket is None or given.admin or given.bearer:
                return await self._by_token(access, given, call.client_ip)
            if not access.ticket:
                raise TicketInvalid
            behind = await self._tickets.use(given.ticket, given.path, now=now)
            return await self.auth.again(behind.kind, behind.hashed, call.client_ip)
        except MISSING:
            raise
        except Unauthenticated:
            with suppress(LimitReached):
                self._may_fail(failures, now.timestamp(), charge=True)
            raise

    def _may_fail(self, failures: Layer, now: float, *, charge: bool) -> None:
        limits.check([failures], self._limiter.decide([failures], now, charge=charge), now)

    async def _by_token(
        self, access: policy.Access, given: Tokens, address: str | None
    ) -> Verified:
        admin, bearer = given.admin, given.bearer
        if admin or (access.admin_only and not given.either):
            return await self.auth.admin(admin or _admin_bearer(bearer), address)
        if bearer and bearer.startswith("sp_admin_"):
            return await self.auth.admin(bearer, address)
        try:
            return await self.auth.bearer(bearer)
        except ApiKeyInvalid:
            # An administrator's token may have any form, since operators set the first one.
            if bearer and given.either and label_of(bearer) == "":
                return await self.auth.admin(bearer, address)
            raise


def _admin_bearer(bearer: str | None) -> str | None:
    return bearer if bearer and bearer.startswith("sp_admin_") else None
