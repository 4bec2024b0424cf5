"""Instances: the machines that agents live on, and who of them is primary."""
