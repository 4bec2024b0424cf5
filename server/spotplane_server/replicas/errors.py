"""What can go wrong with replicas."""

from __future__ import annotations

from spotplane_server.kernel.errors import Invalid, NotFound, Precondition


class ReplicaNotFound(NotFound):
    """No such replica, or another agent's."""

    reason = "REPLICA_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such replica of this agent")


class ReplicaNotPromotable(Precondition):
    """The replica has no running instance, or is in a state that cannot be promoted."""

    reason = "REPLICA_NOT_PROMOTABLE"


class ReplicaLimit(Precondition):
    """The agent already has a live replica."""

    reason = "REPLICA_LIMIT"

    def __init__(self) -> None:
        super().__init__("the agent has a live replica already", current_count="1", max_allowed="1")


class ReplicaAlreadyBound(Precondition):
    """The replica is bound to another instance."""

    reason = "REPLICA_ALREADY_BOUND"

    def __init__(self, instance_id: str) -> None:
        super().__init__("the replica is bound to another instance", instance_id=instance_id)


class ReplicaAlreadyFinal(Precondition):
    """The replica is terminated or promoted already."""

    reason = "REPLICA_ALREADY_FINAL"


class InvalidTransition(Precondition):
    """The replica's state does not lead to the reported one."""

    reason = "INVALID_TRANSITION"


class NoPoolAvailable(Precondition):
    """No pool fits."""

    reason = "NO_POOL_AVAILABLE"


class UnknownPool(Invalid):
    """The named pool is not known."""

    reason = "UNKNOWN_POOL"


class TypeMismatch(Invalid):
    """The named pool is of another type or region."""

    reason = "TYPE_MISMATCH"


class ManualReplicaDisabled(Precondition):
    """The agent is not in manual mode, and the caller insists on it."""

    reason = "MANUAL_REPLICA_DISABLED"

    def __init__(self) -> None:
        super().__init__("the agent keeps no manual replica: manual mode is off")
