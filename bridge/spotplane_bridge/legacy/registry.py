"""Registry of all declared routes: those of every module in this folder that has `ROUTES`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from google.protobuf.descriptor import MethodDescriptor

from spotplane_bridge import legacy
from spotplane_bridge.legacy.routes import LegacyRoute
from spotplane_bridge.routes import load_services


def load() -> list[LegacyRoute]:
    """Return every declared route, by module and in the order of its declaration."""
    found: list[LegacyRoute] = []
    for module in pkgutil.iter_modules(legacy.__path__, f"{legacy.__name__}."):
        found += getattr(importlib.import_module(module.name), "ROUTES", ())
    return found


def rpcs() -> Mapping[str, MethodDescriptor]:
    """Return every RPC by service and method, e.g. ``AgentService.GetAgent``."""
    return {
        f"{service.name}.{method.name}": method
        for service in load_services()
        for method in service.methods
    }
