"""Processes that die, and what must not be lost or done twice."""
