"""Spend budgets: shares that are told of, hard stops, periods, money to the nano."""
