"""Cloud providers that launch and terminate instances."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

InstanceState = Literal["pending", "running", "stopping", "terminated"]


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Specification of an instance to launch."""

    instance_type: str
    region: str
    az: str
    """Empty: wherever the region has room."""
    mode: Literal["spot", "ondemand"]
    client_token: str
    """Launching twice with one token yields one instance."""
    logical_agent_id: str
    replica_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance as its cloud reports it."""

    instance_id: str
    instance_type: str
    az: str
    mode: Literal["spot", "ondemand"]
    state: InstanceState
    tags: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """Launches and terminates instances. All calls are idempotent."""

    async def launch(self, spec: LaunchSpec) -> str:
        """Launch an instance; return the cloud's id of it.

        Raises:
            ProviderError: No instance could be launched; the message has the reason.
        """

    async def terminate(self, instance_id: str) -> None:
        """Terminate an instance; no effect on one that is gone already.

        Raises:
            ProviderError: The cloud rejected the call or could not be reached.
        """

    async def describe(self, instance_id: str) -> InstanceView | None:
        """Return an instance; None when the cloud does not know it.

        Raises:
            ProviderError: The cloud could not be reached.
        """
