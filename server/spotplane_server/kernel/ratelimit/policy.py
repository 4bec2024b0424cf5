"""Rate limit policy: the limits that apply to a call, in checking order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from spotplane_server.kernel.auth import policy
from spotplane_server.kernel.auth.authenticator import VerifiedCaller
from spotplane_server.kernel.ratelimit.limiter import DAY_PREFIX, DAY_SECONDS, Layer

# Of the fleet: 10 a second and bursts of 50 for one agent under a credential, 500 a second for the
# credential. A window of five seconds takes a burst whole and no more than the rate after it.
WINDOW_SECONDS: Final = 5.0
AGENT_CALLS: Final = 50
CREDENTIAL_CALLS: Final = 2500


def layers(verified: VerifiedCaller, *, tenant_rpm: int, endless: bool) -> list[Layer]:
    """The budgets of a proven call that is not of the fleet.

    Args:
        verified: Who calls.
        tenant_rpm: Requests a minute of a whole tenant.
        endless: Whether the call is a conversation without an end; one takes no permit.
    """
    caller, budget = verified.caller, verified.budget
    if caller.kind == "admin":
        return [Layer("ADMIN_RATE_LIMIT", f"admin:{caller.id}", budget.key_rpm or 600)]
    key, environment, tenant = caller.id, caller.environment_id, caller.tenant_id
    found = [Layer("RATE_LIMIT_REQUESTS", f"key:{key}", budget.key_rpm or 60)]
    if budget.key_tpm is not None:
        found.append(
            Layer("RATE_LIMIT_TOKENS", f"key-tokens:{key}", budget.key_tpm, counts="tokens")
        )
    if budget.concurrency is not None and not endless:
        found.append(
            Layer("CONCURRENCY_LIMIT", f"key-runs:{key}", budget.concurrency, counts="running")
        )
    reason = "ENVIRONMENT_LIMIT"
    found.append(Layer(reason, f"env:{environment}", budget.environment_rpm or 10_000))
    if budget.environment_tpm is not None:
        name = f"env-tokens:{environment}"
        found.append(Layer(reason, name, budget.environment_tpm, counts="tokens"))
    if budget.environment_tpd is not None:
        name = f"{DAY_PREFIX}{environment}"
        found.append(Layer(reason, name, budget.environment_tpd, DAY_SECONDS, counts="tokens"))
    if budget.environment_concurrency is not None and not endless:
        name = f"env-runs:{environment}"
        found.append(Layer(reason, name, budget.environment_concurrency, counts="running"))
    found.append(Layer("TENANT_LIMIT", f"tenant:{tenant}", tenant_rpm))
    return found


def fleet(access: policy.Access, verified: VerifiedCaller, agent_id: str = "") -> list[Layer]:
    """The budgets of a call of the fleet: the credential's and, with an agent id, the agent's.

    Emergencies have budgets of their own, so that no polling ever starves one.
    """
    credential, kind = verified.caller.id, "emergency" if access.emergency else "call"
    reason = "RATE_LIMIT_EXCEEDED"
    found = [Layer(reason, f"{credential}:{kind}", CREDENTIAL_CALLS, WINDOW_SECONDS)]
    if agent_id:
        found.append(Layer(reason, f"{credential}:{agent_id}:{kind}", AGENT_CALLS, WINDOW_SECONDS))
    return found


def tokens(used: Iterable[tuple[str, str | None, int]]) -> Mapping[str, int]:
    """What tokens draw on.

    Args:
        used: Key, its environment, and tokens.

    Returns:
        Tokens by window.
    """
    found: dict[str, int] = {}
    for key, environment, amount in used:
        names = [f"key-tokens:{key}"]
        if environment is not None:
            names += (f"env-tokens:{environment}", f"{DAY_PREFIX}{environment}")
        for name in names:
            found[name] = found.get(name, 0) + amount
    return found


def auth_failures(address: str | None, limit: int) -> Layer:
    """How often an address may fail to prove itself in a minute."""
    return Layer("RATE_LIMIT_EXCEEDED", f"auth:{address}", limit)
