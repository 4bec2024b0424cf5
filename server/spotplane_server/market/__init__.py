"""MarketService: price reports of agents, and prices, pools and risk for dashboards."""
