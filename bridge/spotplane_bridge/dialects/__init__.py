"""Thin adapters for the JSON that agents and dashboards in the field expect under `/api/**`.

An adapter is an `Endpoint` (see `gateway.py`): it reads one request shape, calls one RPC with the
caller's credentials, and prints one answer shape. It holds no rule, no state and no SQL.
"""
