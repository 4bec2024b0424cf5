"""Command queue of agents: issue, lease, deliver, acknowledge, expire."""
