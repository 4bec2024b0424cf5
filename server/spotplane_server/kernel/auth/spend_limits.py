"""Enforces spend budgets: which keys are blocked, and for which methods.

A block is loaded with the key and cached under the credential epoch, so it takes effect at once.
Its end, at the end of the budget's period, is compared with the clock at each use.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel import metrics
from spotplane_server.kernel.auth import policy
from spotplane_server.kernel.errors import Exhausted

# A client that waits until the end of a month would miss that somebody raised the limit.
MAX_RETRY_AFTER_SECONDS: Final = 3600.0


class BudgetExceeded(Exhausted):
    """A spend budget that stops the caller is used up."""

    reason = "BUDGET_EXCEEDED"


@dataclass(frozen=True, slots=True)
class SpendBlock:
    """What stops a key: a budget, until its period ends, or until the limit is raised."""

    budget_id: UUID
    until: datetime | None


def check(access: policy.Access, stop: SpendBlock | None, now: datetime) -> None:
    """Refuse a stopped key whatever does more than read.

    Raises:
        BudgetExceeded: It is stopped, and the method is not exempt.
    """
    if stop is None or not access.stoppable or (stop.until is not None and stop.until <= now):
        return
    metrics.LIMITED.labels(BudgetExceeded.reason).inc()
    left = MAX_RETRY_AFTER_SECONDS
    resumes = "its limit is raised"
    told = {"budget_id": str(stop.budget_id)}
    if stop.until is not None:
        left = min(left, (stop.until - now).total_seconds())
        resumes = told["resumes_at"] = stop.until.isoformat().replace("+00:00", "Z")
    raise BudgetExceeded(
        f"a spend budget is used up until {resumes}", retry_after_seconds=left, metadata=told
    )
