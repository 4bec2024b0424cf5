"""Desired state of the instance, and the hooks that apply it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from spotplane.v1.agent_stream_pb2 import AgentConfig, DesiredState

logger: Final = logging.getLogger(__name__)

RoleHook = Callable[[str, str], Awaitable[None]]
ConfigHook = Callable[[AgentConfig], Awaitable[None]]


class Desired:
    """The newest desired state, and the generation that is applied.

    The state is valid as soon as it arrives; the hooks follow in their own task, one change at a
    time, and only the newest state if several arrived meanwhile.
    """

    def __init__(self) -> None:
        self.state = DesiredState()
        self.applied_generation = 0
        self.followers: list[Callable[[], Awaitable[None]]] = []
        self.role_hooks: list[RoleHook] = []
        self.config_hooks: list[ConfigHook] = []
        self._wake = asyncio.Event()

    @property
    def enabled(self) -> bool:
        """Whether ordinary commands may start; true before the first state."""
        return self.state.config.enabled if self.state.HasField("config") else True

    def take(self, state: DesiredState) -> bool:
        """Store a state; return False when it is not newer than the current one."""
        if state.generation <= self.state.generation and self.state.generation:
            return False
        self.state = state
        self._wake.set()
        return True

    def observe(self, state: DesiredState) -> bool:
        """Store a state without a generation; return False when it changes nothing."""
        known = DesiredState()
        known.CopyFrom(self.state)
        known.generation = state.generation
        if known == state:
            return False
        self.state = state
        self._wake.set()
        return True

    def forget(self) -> None:
        """Reset, since another agent counts its generations from one again."""
        self.state = DesiredState()
        self.applied_generation = 0

    async def run(self) -> None:
        """Call the hooks after every change, until cancelled."""
        applied = DesiredState()
        while True:
            await self._wake.wait()
            self._wake.clear()
            state = self.state
            for follower in self.followers:
                await _call(follower())
            if state.role != applied.role:
                logger.info("role %s, was %s", state.role, applied.role or "none")
                for role_hook in self.role_hooks:
                    await _call(role_hook(applied.role, state.role))
            if state.config.config_version != applied.config.config_version:
                for config_hook in self.config_hooks:
                    await _call(config_hook(state.config))
            applied = state
            self.applied_generation = state.generation


async def _call(hook: Awaitable[None]) -> None:
    try:
        await hook
    except Exception:
        logger.exception("a hook failed")
