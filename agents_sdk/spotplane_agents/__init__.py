"""The agent SDK: connects an instance to the Spotplane control plane.

An agent in 15 lines::

    import asyncio, os
    from spotplane_agents import Agent, Command, Identity

    here = Identity(
        instance_id="i-0abc", instance_type="g5.xlarge", region="us-east-1", az="us-east-1a"
    )
    agent = Agent(
        server=os.environ["SPOTPLANE_SERVER"],
        api_key=os.environ["SPOTPLANE_API_KEY"],
        identity=here,
    )

    @agent.command("greet")
    async def greet(command: Command) -> dict[str, str]:
        return {"greeting": f"hello {command.parameters['name']} from {agent.role}"}

    asyncio.run(agent.run())

It registers, holds a stream, sends heartbeats at the server's interval, stores its reports on disk
while the server is unreachable, and executes each command once. On EC2, ``Imds().identity()`` reads
the instance's identity, ``ImdsNoticeSource`` watches for its interruption, and ``Ec2Provider``
launches replicas for the server.
"""

from spotplane_agents.agent import Agent
from spotplane_agents.commands import Command
from spotplane_agents.connection import ConnectionOptions
from spotplane_agents.errors import (
    AgentDeleted,
    AgentError,
    CommandFailed,
    MetadataUnavailable,
    ProviderError,
    SessionReplaced,
    SpoolFull,
    StateInUse,
    StateUnavailable,
)
from spotplane_agents.identity import Identity
from spotplane_agents.imds import Imds, ImdsNoticeSource
from spotplane_agents.notices import CloudNotice, NoticeSource
from spotplane_agents.providers import InstanceView, LaunchSpec, Provider
from spotplane_agents.spool import SpoolLimits

__all__ = [
    "Agent",
    "AgentDeleted",
    "AgentError",
    "CloudNotice",
    "Command",
    "CommandFailed",
    "ConnectionOptions",
    "Identity",
    "Imds",
    "ImdsNoticeSource",
    "InstanceView",
    "LaunchSpec",
    "MetadataUnavailable",
    "NoticeSource",
    "Provider",
    "ProviderError",
    "SessionReplaced",
    "SpoolFull",
    "SpoolLimits",
    "StateInUse",
    "StateUnavailable",
]
