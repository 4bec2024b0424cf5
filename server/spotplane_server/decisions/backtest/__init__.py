"""Recorded markets, replayed through the engines that run live."""
