"""Machines that serve models: launched, registered, heard, drained and ended."""
