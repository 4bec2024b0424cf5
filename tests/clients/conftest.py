"""A plane behind its bridge, for clients that know nothing but its routes."""

from tests.dialects.conftest import field

__all__ = ["field"]
