"""Launches and ends machines for nodes: the plane itself has no credentials of any cloud."""

from spotplane_agents.provisioner.machines import Machines, Order
from spotplane_agents.provisioner.worker import Provisioner

__all__ = ["Machines", "Order", "Provisioner"]
