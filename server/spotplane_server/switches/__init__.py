"""Switches of agents: every change of primary, with its cause, prices and instants."""
