"""The engines that come with the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from spotplane_server.decisions.engine import Engine
from spotplane_server.decisions.engines.hedge import HedgeEngine
from spotplane_server.decisions.engines.risk import PriceAndRisk
from spotplane_server.decisions.engines.rules import BuiltInRules

# By the name under which they are chosen, live and in backtests.
BUILT_IN: Final[dict[str, Callable[[], Engine]]] = {
    BuiltInRules.name: BuiltInRules,
    PriceAndRisk.name: PriceAndRisk,
    HedgeEngine.name: HedgeEngine,
}
