"""Clouds that an agent can order instances from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

InstanceState = Literal["pending", "running", "stopping", "terminated"]


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """An instance to be launched."""

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
    """An instance as its cloud sees it."""

    instance_id: str
    instance_type: str
    az: str
    mode: Literal["spot", "ondemand"]
    state: InstanceState
    tags: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """Launches and ends instances. Everything may be repeated."""

    async def launch(self, spec: LaunchSpec) -> str:
        """Order an instance; return the cloud's id of it.

        Raises:
            ProviderError: There is none to be had; the message says why.
        """

    async def terminate(self, instance_id: str) -> None:
        """End an instance; one that is gone already is fine.

        Raises:
            ProviderError: The cloud refused or could not be reached.
        """

    async def describe(self, instance_id: str) -> InstanceView | None:
        """Look at an instance; None when the cloud does not know it.

        Raises:
            ProviderError: The cloud could not be reached.
        """
