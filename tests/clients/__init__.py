"""Clients as they are in the field, and the lives they lead."""
