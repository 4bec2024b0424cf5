"""Instances as people and agents see them: lists, switches, launches, ends."""
