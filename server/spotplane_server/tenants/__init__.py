"""Tenants, environments and API keys."""
