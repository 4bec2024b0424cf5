"""Which budgets a call draws on."""

from __future__ import annotations

from typing import Any, Final

from spotplane_server.kernel import policy
from spotplane_server.kernel.auth import Verified
from spotplane_server.kernel.limits import Layer

# Of the fleet: 10 a second and bursts of 50 for one agent under a credential, 500 a second for the
# credential. A window of five seconds takes a burst whole and no more than the rate after it.
WINDOW_SECONDS: Final = 5.0
AGENT_CALLS: Final = 50
CREDENTIAL_CALLS: Final = 2500


def layers(
    access: policy.Access, verified: Verified, request: Any, *, tenant_rpm: int
) -> list[Layer]:
    """The budgets of a proven call.

    Emergencies have budgets of their own, so that no polling ever starves one.
    """
    caller, budget = verified.caller, verified.budget
    if access.fleet:
        return _fleet(caller.id, "emergency" if access.emergency else "call", request)
    if caller.kind == "admin":
        return [Layer("ADMIN_RATE_LIMIT", caller.id, budget.key_rpm or 600)]
    return [
        Layer("RATE_LIMIT_REQUESTS", caller.id, budget.key_rpm or 60),
        Layer("ENVIRONMENT_LIMIT", str(caller.environment_id), budget.environment_rpm or 10_000),
        Layer("TENANT_LIMIT", str(caller.tenant_id), tenant_rpm),
    ]


def auth_failures(address: str | None, limit: int) -> Layer:
    """How often an address may fail to prove itself in a minute."""
    return Layer("RATE_LIMIT_EXCEEDED", f"auth:{address}", limit)


def _fleet(credential: str, kind: str, request: Any) -> list[Layer]:
    reason, agent = "RATE_LIMIT_EXCEEDED", getattr(request, "agent_id", "")
    found = [Layer(reason, f"{credential}:{kind}", CREDENTIAL_CALLS, WINDOW_SECONDS)]
    if agent:
        found.append(Layer(reason, f"{credential}:{agent}:{kind}", AGENT_CALLS, WINDOW_SECONDS))
    return found
