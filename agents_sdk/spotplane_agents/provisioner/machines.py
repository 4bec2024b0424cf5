"""Interface of a provisioner to its clouds, and its implementation by agent providers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from spotplane_agents.providers import InstanceState, InstanceView, LaunchSpec, Provider

NODE_TAG: Final = "spotplane:node"
LAUNCH_TAG: Final = "spotplane:launch"
MODEL_TAG: Final = "spotplane:model"


@dataclass(frozen=True, slots=True)
class Order:
    """A machine to launch, or that was launched."""

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
    """Machines of one or more clouds. All calls are idempotent, across processes too."""

    async def find(self, order: Order) -> str | None:
        """Find the machine of a launch; None when there is no live one.

        Raises:
            ProviderError: The cloud could not be reached.
        """

    async def launch(self, order: Order) -> str:
        """Launch a machine; return the cloud's id of it, the same for repeated calls.

        Raises:
            ProviderError: No machine could be launched; the message has the reason.
        """

    async def state(self, order: Order, machine_id: str) -> InstanceState | None:
        """Return the state of a machine; None when the cloud does not know it.

        Raises:
            ProviderError: The cloud could not be reached.
        """

    async def terminate(self, order: Order, machine_id: str) -> None:
        """Terminate a machine; no effect on one that is gone already.

        Raises:
            ProviderError: The cloud rejected the call or could not be reached.
        """


class FindingProvider(Provider, Protocol):
    """A provider that can find an instance by a tag."""

    async def find(self, tag: str, value: str) -> InstanceView | None:
        """Find a live instance; None when there is none.

        Raises:
            ProviderError: The cloud could not be reached.
        """


class ProviderMachines:
    """Machines through the providers that agents launch with, one for each region.

    A machine reads its purpose from its tags: the agent on its image registers the node under the
    name in `spotplane:node`, and serves the model in `spotplane:model`.
    """

    def __init__(self, connect: Callable[[str], FindingProvider]) -> None:
        """Store the function that connects to a region by its code."""
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
