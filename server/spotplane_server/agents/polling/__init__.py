"""Agents that poll over REST: heartbeats, commands and results without a stream."""
