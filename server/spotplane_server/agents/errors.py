"""What can go wrong with agents, sessions and commands."""

from __future__ import annotations

from spotplane_server.kernel.errors import (
    Conflict,
    Exhausted,
    Invalid,
    NotFound,
    Precondition,
    Unavailable,
)


class AgentNotFound(NotFound):
    """No such agent, a deleted one, or another tenant's."""

    reason = "AGENT_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such agent")


class InstanceNotFound(NotFound):
    """No such instance, or another agent's."""

    reason = "INSTANCE_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such instance of this agent", suggestion="register it first")


class CommandNotFound(NotFound):
    """No such command, or another agent's."""

    reason = "COMMAND_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such command")


class InstanceTaken(Precondition):
    """The instance belongs to another agent."""

    reason = "INSTANCE_TAKEN"


class AgentDisabled(Precondition):
    """The agent is disabled and this is no emergency."""

    reason = "AGENT_DISABLED"


class AgentOffline(Precondition):
    """No instance serves, or none has been heard of for too long."""

    reason = "AGENT_OFFLINE"


class CommandFinal(Precondition):
    """The command is final already."""

    reason = "COMMAND_FINAL"


class SwitchInProgress(Precondition):
    """Another switch of the agent is still open."""

    reason = "SWITCH_IN_PROGRESS"


class UnknownPool(Invalid):
    """No such pool in the agent's region, or none with a known price."""

    reason = "UNKNOWN_POOL"


class PoolRequired(Invalid):
    """A switch to spot must name its pool."""

    reason = "POOL_REQUIRED"


class RequestIdReused(Precondition):
    """The request id was used for another content."""

    reason = "REQUEST_ID_REUSED"


class ModeConflict(Invalid):
    """Automatic switching and manual replicas exclude each other."""

    reason = "MODE_CONFLICT"


class SessionReplaced(Conflict):
    """A newer session of the same instance took over."""

    reason = "SESSION_REPLACED"

    def __init__(self) -> None:
        super().__init__("a newer session of this instance took over")


class UnexpectedMessage(Precondition):
    """A stream message that is not allowed here."""

    reason = "UNEXPECTED_MESSAGE"


class OutOfOrder(Precondition):
    """A report's seq leaves a gap."""

    reason = "OUT_OF_ORDER"


class UnknownMessage(Invalid):
    """A stream message of no known kind."""

    reason = "UNKNOWN_MESSAGE"


class TooFrequent(Exhausted):
    """The agent sends messages, or opens streams, far more often than it needs to."""

    reason = "RATE_LIMIT_EXCEEDED"

    def __init__(self, retry_after_seconds: float = 1.0) -> None:
        super().__init__(
            "this agent's messages are too frequent", retry_after_seconds=retry_after_seconds
        )


class Draining(Unavailable):
    """The server is shutting down."""

    reason = "DRAINING"
