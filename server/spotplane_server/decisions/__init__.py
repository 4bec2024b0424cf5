"""Where a service should run: engines, the loop that asks them, and backtests."""
