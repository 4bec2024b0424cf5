"""Call authentication: extracts the credential of a call and verifies it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from spotplane_server.kernel.auth import policy
from spotplane_server.kernel.auth.authenticator import (
    AdminTokenMissing,
    ApiKeyInvalid,
    ApiKeyMissing,
    Authenticator,
    VerifiedCaller,
)
from spotplane_server.kernel.auth.secrets import label_of
from spotplane_server.kernel.auth.ticket_routes import target
from spotplane_server.kernel.auth.tickets import TicketInvalid, Tickets
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.errors import Unauthenticated
from spotplane_server.kernel.ratelimit import limiter as limiter_module
from spotplane_server.kernel.ratelimit import policy as rate_limit_policy
from spotplane_server.kernel.ratelimit.limiter import Layer, LocalRateLimiter, RateLimitDecision
from spotplane_server.kernel.request_context import Call

# No credential came: nobody tried anything.
MISSING: Final = (ApiKeyMissing, AdminTokenMissing)


class CallCredentials(NamedTuple):
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


def read_credentials(metadata: Mapping[str, str]) -> CallCredentials:
    """Read a call's metadata."""
    authorization = metadata.get("authorization", "").strip()
    scheme, _, rest = authorization.partition(" ")
    bearer = rest.strip() if scheme.lower() == "bearer" else authorization
    return CallCredentials(
        metadata.get("x-admin-token"),
        bearer or metadata.get("x-client-token"),
        metadata.get("x-spotplane-ticket"),
        metadata.get("x-spotplane-path", ""),
        metadata.get("x-spotplane-family") == "fleet",
    )


class CallAuthenticator:
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
        limiter: LocalRateLimiter,
        clock: Clock,
        *,
        failures_per_minute: int,
    ) -> None:
        self.auth = auth
        self._tickets = tickets
        self._limiter = limiter
        self._clock = clock
        self._failures = failures_per_minute

    async def prove(
        self, access: policy.Access, call: Call, given: CallCredentials
    ) -> VerifiedCaller:
        """Prove a caller.

        Failures are charged to the address, and one beyond its limit is reported as such. Until
        the minute is over, credentials from there are looked up together with all others that
        wait, so that failures do not take the connections that valid callers need; a valid
        credential is never refused for the failures of others.

        Raises:
            Unauthenticated, Forbidden: It cannot be proven.
            LimitReached: The same, and the address has failed too often.
        """
        now = self._clock.now()
        failures = rate_limit_policy.auth_failures(call.client_ip, self._failures)
        is_exhausted = bool(self._charge(failures, now, charge=False).refused)
        try:
            if is_exhausted:
                await self._check_exists(given)
            return await self._by_any(access, call, given, now)
        except MISSING:
            raise
        except Unauthenticated:
            verdict = self._charge(failures, now)
            limiter_module.check([failures], verdict, now.timestamp())
            raise

    def _charge(self, failures: Layer, now: datetime, *, charge: bool = True) -> RateLimitDecision:
        return self._limiter.decide([failures], now.timestamp(), charge=charge)

    async def _check_exists(self, given: CallCredentials) -> None:
        # A made-up ticket or a damaged key costs no look-up.
        token = given.admin or given.bearer
        if token and label_of(token) is not None and not await self.auth.exists(token):
            raise ApiKeyInvalid("invalid API key")

    async def _by_any(
        self, access: policy.Access, call: Call, given: CallCredentials, now: datetime
    ) -> VerifiedCaller:
        if given.ticket is None or given.admin or given.bearer:
            return await self._by_token(access, given, call.client_ip)
        call.ticket = target(given.path)
        if not access.ticket or call.ticket is None or call.ticket.method != call.method:
            raise TicketInvalid
        behind = await self._tickets.use(given.ticket, given.path, now=now)
        return await self.auth.again(behind.kind, behind.hashed, call.client_ip)

    async def _by_token(
        self, access: policy.Access, given: CallCredentials, address: str | None
    ) -> VerifiedCaller:
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
