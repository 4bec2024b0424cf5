"""Switches: which instance an agent left for which, why, at what price, and how long it took."""
