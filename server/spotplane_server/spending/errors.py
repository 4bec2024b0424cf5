"""Errors of budgets."""

from __future__ import annotations

from uuid import UUID

from spotplane_server.kernel.errors import NotFound, Precondition


class BudgetNotFound(NotFound):
    """The tenant has no such budget."""

    reason = "BUDGET_NOT_FOUND"

    def __init__(self, budget_id: UUID) -> None:
        super().__init__("budget not found", budget_id=str(budget_id))


class TooManyBudgets(Precondition):
    """The tenant has reached its maximum number of budgets."""

    reason = "BUDGET_LIMIT"

    def __init__(self, limit: int) -> None:
        super().__init__(f"a tenant has at most {limit} budgets", limit=str(limit))
