"""Catalogue: regions, instance types, their availability per region, and models with prices."""
