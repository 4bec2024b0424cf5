"""Agents: identity, streams, sessions with fencing epochs, configuration, and the command ledger."""
