"""What an instance may become, and what that makes of it."""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

Status: TypeAlias = Literal[
    "launching",
    "running_primary",
    "running_replica",
    "promoting",
    "zombie",
    "terminating",
    "terminated",
]
Role: TypeAlias = Literal["primary", "replica", "candidate", "retired"]

GONE: Final = frozenset[Status]({"terminating", "terminated"})

_ROLES: Final[dict[str, Role]] = {
    "running_primary": "primary",
    "running_replica": "replica",
    "promoting": "replica",
    "launching": "candidate",
}
# What stands in an instance's place until there is one: of replicas, and of switches.
_PLACEHOLDER: Final = re.compile(r"(?:manual|replica|emergency|switch)-[0-9a-f]{8}")


def is_placeholder(instance_id: str) -> bool:
    """Whether an id stands for an instance that is yet to be launched."""
    return _PLACEHOLDER.fullmatch(instance_id) is not None


def role(status: str) -> Role:
    """What an instance in this state is to do."""
    return _ROLES.get(status, "retired")


def pool_id(instance_type: str, az: str) -> str:
    """Id of the pool of a type in a zone; the zone is what follows the last dot."""
    return f"{instance_type}.{az}"


def zone(pool_id: str) -> str:
    """Zone of a pool: what follows the last dot of its id."""
    return pool_id.rpartition(".")[2]
