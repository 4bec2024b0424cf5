"""Builds the market's service, which needs to know of agents and instances."""

from __future__ import annotations

from spotplane.v1 import market_pb2_grpc

from spotplane_server.kernel.module import AppContext, FeatureModule
from spotplane_server.market.reports import AgentsPrices
from spotplane_server.market.service import MarketService
from spotplane_server.prices.reports import PriceReports


def assemble(kernel: AppContext) -> FeatureModule:
    """Build MarketService."""
    reports = AgentsPrices(kernel.db, PriceReports(kernel.db, kernel.wakeups))
    service = MarketService(kernel.db, kernel.clock, reports)
    return FeatureModule([(market_pb2_grpc.add_MarketServiceServicer_to_server, service)])
