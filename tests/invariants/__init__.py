"""Promises that the whole repository keeps; exception lists here only shrink."""
