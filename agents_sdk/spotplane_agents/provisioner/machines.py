"""What a provisioner asks of a cloud, and how it does so through a provider of agents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from spotplane_agents.providers import InstanceState, InstanceView, LaunchSpec, Provider

NODE_TAG: Final = "spotplane:node"
LAUNCH_TAG: Final = "spotplane:launch"
MODEL_TAG: Final = "spotplane:model"


@dataclass(frozen=True, slots=True)
class Order:
    """A machine that is wanted, or that was."""

    launch_id: str
    """The client token: at most one machine ever comes of it."""
    cluster_name: str
    """The name under which it is to register its node."""
    provider: str
    region: str
    instance_type: str
    spot: bool
    model: str


class Machines(Protocol):
    """Machines of one or more clouds. Everything may be repeated, by any process."""

    async def find(self, order: Order) -> str | None:
        """Look for the machine that came of an order; None when there is none that lives.

        Raises:
            ProviderError: The cloud could not be reached.
        """

    async def launch(self, order: Order) -> str:
        """Order a machine; return the cloud's id of it, the same however often it is asked.

        Raises:
            ProviderError: There is none to be had; the message says why.
        """

    async def state(self, order: Order, machine_id: str) -> InstanceState | None:
        """Look at a machine; None when the cloud does not know it.

        Raises:
            ProviderError: The cloud could not be reached.
        """

    async def terminate(self, order: Order, machine_id: str) -> None:
        """End a machine; one that is gone already is fine.

        Raises:
            ProviderError: The cloud refused or could not be reached.
        """


class FindingProvider(Provider, Protocol):
    """A provider that can look for an instance by a tag."""

    async def find(self, tag: str, value: str) -> InstanceView | None:
        """Look for an instance that lives; None when there is none.

        Raises:
            ProviderError: The cloud could not be reached.
        """


class ProviderMachines:
    """Machines through the providers that agents launch with, one for each region.

    A machine learns from its tags what it is: the agent on its image registers the node under the
    name in `spotplane:node`, and serves the model in `spotplane:model`.
    """

    def __init__(self, connect: Callable[[str], FindingProvider]) -> None:
        """Take how to reach a region by its code."""
        self._connect = connect
        self._regions: dict[str, FindingProvider] = {}

    async def find(self, order: Order) -> str | None:
        """See ``Machines.find``."""
        view = await self._in(order).find(LAUNCH_TAG, order.launch_id)
        return view.instance_id if view else None

    async def launch(self, order: Order) -> str:
        """See ``Machines.launch``."""
        return await self._in(order).launch(
            LaunchSpec(
                instance_type=order.instance_type,
                region=order.region,
                az="",
                mode="spot" if order.spot else "ondemand",
                client_token=order.launch_id,
                logical_agent_id=order.cluster_name,
                tags=_tags(order),
            )
        )

    async def state(self, order: Order, machine_id: str) -> InstanceState | None:
        """See ``Machines.state``."""
        view = await self._in(order).describe(machine_id)
        return view.state if view else None

    async def terminate(self, order: Order, machine_id: str) -> None:
        """See ``Machines.terminate``."""
        await self._in(order).terminate(machine_id)

    def _in(self, order: Order) -> FindingProvider:
        found = self._regions.get(order.region)
        if found is None:
            found = self._regions[order.region] = self._connect(order.region)
        return found


def _tags(order: Order) -> Mapping[str, str]:
    return {NODE_TAG: order.cluster_name, LAUNCH_TAG: order.launch_id, MODEL_TAG: order.model}
