"""Notifications and price alerts, made from events."""
