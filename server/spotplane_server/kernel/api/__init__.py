"""Requests and responses: field parsing, paging, time ranges, HTTP bodies."""
