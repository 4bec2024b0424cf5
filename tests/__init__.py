"""Tests, one folder per feature, and the invariants of the whole repository."""
