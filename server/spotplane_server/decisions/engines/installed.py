"""Engines that an operator installed beside the product: entry points of `spotplane.engines`."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

from spotplane_server.decisions.engine import Engine

GROUP: Final = "spotplane.engines"


class EngineMissing(LookupError):
    """No engine of this name is there, or it does not load."""


def load(name: str) -> Engine:
    """Build the engine that an entry point names: a class, or a function without arguments.

    Raises:
        EngineMissing: There is none of the name, or what it gives is no engine.
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise EngineMissing(f"no engine {name!r} is installed under {GROUP}")
    try:
        engine = next(iter(found)).load()()
    except Exception as err:
        raise EngineMissing(f"engine {name!r} does not load: {err}") from err
    if not callable(getattr(engine, "decide", None)) or not all(
        isinstance(getattr(engine, attribute, None), str) for attribute in ("name", "version")
    ):
        raise EngineMissing(f"engine {name!r} lacks name, version or decide")
    loaded: Engine = engine
    return loaded
