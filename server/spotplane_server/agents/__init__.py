"""Agents: identity, streams, sessions with fencing epochs, configuration, the command ledger."""
