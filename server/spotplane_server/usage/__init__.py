"""Usage: ingest, hourly sums, costs, and answers about them."""
