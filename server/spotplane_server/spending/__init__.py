"""Spend budgets: limits of what is used in a period, what is told of them, and hard stops."""
