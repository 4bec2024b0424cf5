"""Spot pools and their newest prices."""
