"""Tests, one folder per feature, and the promises the whole repository keeps."""
