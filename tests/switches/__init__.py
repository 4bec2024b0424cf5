"""Switches, from the order to the history."""
