"""Fixtures of the catalogue's tests."""

from __future__ import annotations

import pytest

from tests.catalog.world import Catalog
from tests.support.plane import Plane


@pytest.fixture
def catalog(plane: Plane) -> Catalog:
    """The catalogue's services on a running server."""
    return Catalog(plane)
