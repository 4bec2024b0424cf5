"""Builds the feature."""

from __future__ import annotations

from spotplane_server.kernel.parts import Kernel, Parts


def assemble(kernel: Kernel) -> Parts:
    """Build the feature's services and jobs."""
    return Parts()
