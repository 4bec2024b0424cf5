"""Notices of the cloud about an instance's interruption, and their sources."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import agent_stream_pb2 as pb

NoticeKind = Literal["rebalance", "termination"]


@dataclass(frozen=True, slots=True)
class CloudNotice:
    """An interruption by the cloud: possible (``rebalance``), or certain at ``deadline``."""

    kind: NoticeKind
    detected_at: datetime
    deadline: datetime | None = None

    def message(self, instance_id: str) -> pb.Notice:
        """Return the notice as a message for the server."""
        kinds = {
            "rebalance": pb.Notice.KIND_REBALANCE,
            "termination": pb.Notice.KIND_TERMINATION,
        }
        return pb.Notice(
            kind=kinds[self.kind],
            instance_id=instance_id,
            detected_at=stamp(self.detected_at),
            deadline=stamp(self.deadline) if self.deadline else None,
        )


class NoticeSource(Protocol):
    """Watches the cloud for notices about its own instance."""

    def notices(self) -> AsyncIterator[CloudNotice]:
        """Yield each notice once, as soon as it appears, until closed."""


def stamp(at: datetime) -> Timestamp:
    """Convert an aware instant into a protobuf timestamp."""
    message = Timestamp()
    message.FromDatetime(at)
    return message
