"""The catalogue: regions, instance types, where each is sold, and models with their prices."""
