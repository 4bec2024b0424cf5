"""What the cloud says about an instance's end, whoever asks it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import agent_stream_pb2 as pb

NoticeKind = Literal["rebalance", "termination"]


@dataclass(frozen=True, slots=True)
class CloudNotice:
    """The cloud wants the instance back: perhaps (``rebalance``), or at ``deadline``."""

    kind: NoticeKind
    detected_at: datetime
    deadline: datetime | None = None

    def message(self, instance_id: str) -> pb.Notice:
        """Word it for the plane."""
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
    """Watches the cloud for notices about the instance it runs on."""

    def notices(self) -> AsyncIterator[CloudNotice]:
        """Yield each notice once, as soon as it is seen, until closed."""


def stamp(at: datetime) -> Timestamp:
    """Word an aware instant for the plane."""
    message = Timestamp()
    message.FromDatetime(at)
    return message
