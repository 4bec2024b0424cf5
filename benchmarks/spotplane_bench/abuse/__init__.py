"""Attacks on a running stack, and how they change the service that a well-behaved client gets.

The modules `attacks_*` hold the attacks, `catalogue` lists them with their sizes, `client` is the
well-behaved client, and `bench` runs each attack next to it.
"""
