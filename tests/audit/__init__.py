"""The audit trail: what is in it, and reading it."""
