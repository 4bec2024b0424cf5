"""Spend budgets: limits on spend per period, alerts, and hard stops."""
