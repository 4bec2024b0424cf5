"""Load, scale and fault runs against a running control plane."""
