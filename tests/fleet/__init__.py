"""Instances, their launches and their ends."""
