"""Agent sessions: the Connect stream, epochs that fence older sessions, heartbeats."""
