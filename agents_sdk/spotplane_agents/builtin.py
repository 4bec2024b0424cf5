"""Built-in commands, executed through the agent's cloud provider."""

import logging
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

from spotplane_agents.commands import Command, Registration
from spotplane_agents.errors import CommandFailed, ProviderError
from spotplane_agents.identity import Identity, split_pool_id
from spotplane_agents.providers import LaunchSpec, Provider

logger: Final = logging.getLogger(__name__)


class Host(Protocol):
    """Interface of the agent that the built-in commands use."""

    @property
    def identity(self) -> Identity:
        """The instance that the agent runs on."""

    @property
    def logical_agent_id(self) -> str:
        """The name it registers under."""

    async def replica_status(
        self,
        status: str,
        *,
        replica_id: str | None = None,
        instance_id: str | None = None,
        sync_progress: float | None = None,
        message: str = "",
    ) -> None:
        """Report a replica's state."""

    async def terminated(self, instance_id: str, reason: str) -> None:
        """Report that an instance is terminated."""

    async def retire_after(self, seconds: int) -> None:
        """End this instance this long after another one serves."""


class Builtins:
    """Handlers of the built-in command types.

    Launches use the command's id as the cloud's client token, so a launch that a restart
    interrupted is requested again and yields the same instance.
    """

    def __init__(self, host: Host, provider: Provider | None) -> None:
        self._host = host
        self._provider = provider

    def handlers(self) -> dict[str, Registration]:
        """Return all handlers by name; without a provider only those that need none."""
        plain = {"promote_replica": self.acknowledge, "update_config": self.acknowledge}
        cloud = {
            "create_replica": self.create_replica,
            "terminate_replica": self.terminate,
            "terminate": self.terminate,
            "switch": self.switch,
        }
        chosen = plain | cloud if self._provider is not None else plain
        return {name: Registration(handler, idempotent=True) for name, handler in chosen.items()}

    async def acknowledge(self, command: Command) -> None:
        """Do nothing: roles and configurations arrive as desired state."""

    async def create_replica(self, command: Command) -> Mapping[str, Any]:
        """Launch a standby instance, and bind the replica to it."""
        given = command.parameters
        replica_id = _text(given, "replica_id")
        spec = self._spec(command, given.get("mode") or "spot", replica_id)
        try:
            instance_id = await self._launch(spec)
        except CommandFailed as error:
            await self._host.replica_status("failed", replica_id=replica_id, message=str(error))
            raise
        await self._host.replica_status("syncing", replica_id=replica_id, instance_id=instance_id)
        return {"instance_id": instance_id}

    async def terminate(self, command: Command) -> Mapping[str, Any]:
        """Terminate an instance; without an id, the one the agent runs on."""
        instance_id = command.parameters.get("instance_id") or self._host.identity.instance_id
        try:
            await self._cloud().terminate(instance_id)
        except ProviderError as error:
            raise CommandFailed(str(error)) from error
        await self._host.terminated(instance_id, f"command {command.id}")
        return {"instance_id": instance_id}

    async def switch(self, command: Command) -> Mapping[str, Any]:
        """Launch the target instance of a switch; it registers under the same name."""
        instance_id = await self._launch(
            self._spec(command, _text(command.parameters, "target_mode"), None)
        )
        # Not before the server reports that the new one serves: see `Agent.retire_after`.
        wait = int(command.parameters.get("terminate_wait_seconds") or 0)
        if wait > 0:
            await self._host.retire_after(wait)
        return {"instance_id": instance_id}

    def _spec(self, command: Command, mode: str, replica_id: str | None) -> LaunchSpec:
        given, here = command.parameters, self._host.identity
        pool_id = given.get("pool_id") or given.get("target_pool_id") or here.pool_id
        try:
            instance_type, az = split_pool_id(pool_id)
        except ValueError as error:
            raise CommandFailed(str(error)) from error
        return LaunchSpec(
            instance_type=given.get("instance_type") or instance_type,
            region=given.get("region") or here.region,
            az=given.get("az") or az,
            mode=_mode(mode),
            client_token=command.id,
            logical_agent_id=self._host.logical_agent_id,
            replica_id=replica_id,
        )

    async def _launch(self, spec: LaunchSpec) -> str:
        try:
            instance_id = await self._cloud().launch(spec)
        except ProviderError as error:
            raise CommandFailed(str(error)) from error
        logger.info("launched %s in %s.%s", instance_id, spec.instance_type, spec.az)
        return instance_id

    def _cloud(self) -> Provider:
        if self._provider is None:
            raise CommandFailed("this agent has no cloud provider")
        return self._provider


async def end_own_instance(host: Host, provider: Provider) -> None:
    """Terminate the instance the agent runs on, and report it."""
    instance_id = host.identity.instance_id
    try:
        await provider.terminate(instance_id)
    except ProviderError as error:
        # The server lists the instance for termination, and will send the command again.
        logger.warning("this retired instance could not be ended: %s", error)
        return
    await host.terminated(instance_id, "retired after a switch")


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise CommandFailed(f"parameter {name!r} is missing")
    return value


def _mode(text: str) -> Literal["spot", "ondemand"]:
    if text == "spot":
        return "spot"
    if text == "ondemand":
        return "ondemand"
    raise CommandFailed(f"mode {text!r} is neither 'spot' nor 'ondemand'")
