"""What was saved: a ledger over what really ran."""
