"""What can go wrong with instances and switches."""

from __future__ import annotations

from spotplane_server.kernel.errors import Invalid, Precondition


class NotPrimary(Precondition):
    """The instance is not its agent's serving one."""

    reason = "NOT_PRIMARY"


class SwitchImpossible(Precondition):
    """A switch leads to an instance that has ended."""

    reason = "INVALID_TRANSITION"


class ConfirmRequired(Precondition):
    """A request that changes much must say that it means to."""

    reason = "CONFIRM_REQUIRED"


class NoPoolAvailable(Invalid):
    """No other pool of the instance's type and region has a fresh price."""

    reason = "NO_POOL_AVAILABLE"
