"""Usage: ingest, sums, costs, answers."""
