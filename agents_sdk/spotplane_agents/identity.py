"""Identity of an agent and its instance."""

from dataclasses import dataclass
from typing import Literal

from spotplane.v1.agent_pb2 import RegisterRequest

Mode = Literal["spot", "ondemand", "unknown"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The instance that an agent runs on, and the name of its service."""

    instance_id: str
    instance_type: str
    region: str
    az: str
    logical_agent_id: str | None = None
    """Name the agent registers under; default the instance id."""
    mode: Mode = "unknown"
    hostname: str | None = None
    image_id: str | None = None
    private_ip: str | None = None
    public_ip: str | None = None
    replica_id: str | None = None
    """Replica that the instance was launched for."""

    @property
    def pool_id(self) -> str:
        """The pool it runs in, ``<type>.<zone>``."""
        return f"{self.instance_type}.{self.az}"

    def register_request(self, agent_version: str) -> RegisterRequest:
        """Return the registration request of this instance."""
        return RegisterRequest(
            logical_agent_id=self.logical_agent_id,
            instance_id=self.instance_id,
            instance_type=self.instance_type,
            region=self.region,
            az=self.az,
            hostname=self.hostname,
            mode=self.mode,
            agent_version=agent_version,
            image_id=self.image_id,
            private_ip=self.private_ip,
            public_ip=self.public_ip,
            replica_id=self.replica_id,
        )


def split_pool_id(pool_id: str) -> tuple[str, str]:
    """Split ``<type>.<zone>`` into type and zone, at the last dot since types contain dots.

    Raises:
        ValueError: The type or the zone is missing.
    """
    instance_type, dot, az = pool_id.rpartition(".")
    if not (instance_type and dot and az):
        raise ValueError(f"{pool_id!r} is not <type>.<zone>")
    return instance_type, az
