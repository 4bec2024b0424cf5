"""Provisioner: launches and terminates machines for nodes with the cloud's credentials.

The server itself has no cloud credentials.
"""

from spotplane_agents.provisioner.machines import Machines, Order
from spotplane_agents.provisioner.worker import Provisioner

__all__ = ["Machines", "Order", "Provisioner"]
