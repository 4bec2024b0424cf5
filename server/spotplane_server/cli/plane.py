"""A running plane as commands reach it: where it is, who calls, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from spotplane_server.cli.failures import MISUSED, fail

DEFAULT_TARGET: Final = "127.0.0.1:50051"
TIMEOUT_SECONDS: Final = 30.0
# An engine is evaluated in shadow before the answer.
UPLOAD_SECONDS: Final = 300.0
CHUNK_BYTES: Final = 256 * 1024
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Plane:
    """A channel to the plane with an administrator's credential."""

    def __init__(self, channel: grpc.Channel, token: str | None) -> None:
        self.channel = channel
        self.metadata = (("x-admin-token", token),) if token else ()

    def call(self, rpc: str, **fields: Any) -> Any:
        """Call ``Service.Method``; fields that are None stay absent, dicts are JSON.

        Ends the command with the reason when the plane refuses.
        """
        method, request = prepare(rpc, fields)
        with refusals():
            return method(self.channel)(request, metadata=self.metadata, timeout=TIMEOUT_SECONDS)

    def upload(self, rpc: str, files: Sequence[Path], **fields: Any) -> Any:
        """Call a method that takes files as a stream of chunks; the fields go with the first."""
        method, first = prepare(rpc, fields)
        with refusals():
            return method(self.channel)(
                _chunks(files, first), metadata=self.metadata, timeout=UPLOAD_SECONDS
            )

    def stream(self, rpc: str, timeout: float | None = None, **fields: Any) -> Iterator[Any]:
        """Call a method that answers with a stream; a timeout ends it without complaint."""
        method, request = prepare(rpc, fields)
        with refusals(patient=timeout is not None):
            yield from method(self.channel)(request, metadata=self.metadata, timeout=timeout)

    def agent_id(self, text: str) -> str:
        """The UUID of an agent named by it or by its logical id."""
        if _UUID.fullmatch(text):
            return text
        found = self.call("AgentService.ListAgents", search=text, limit=100).data
        ids = [agent.id for agent in found if agent.logical_agent_id == text]
        if len(ids) != 1:
            fail(f"{'no' if not ids else 'more than one'} agent is called {text!r}")
        return str(ids[0])


def prepare(rpc: str, fields: dict[str, Any]) -> tuple[Any, Message]:
    """A function from a channel to the stub's method, and the request."""
    service, _, name = rpc.partition(".")
    stem = re.sub(r"(?<!^)(?=[A-Z])", "_", service.removesuffix("Service")).lower()
    module = import_module(f"spotplane.v1.{stem}_pb2")
    stub = getattr(import_module(f"spotplane.v1.{stem}_pb2_grpc"), f"{service}Stub")
    descriptor = module.DESCRIPTOR.services_by_name[service].methods_by_name[name]
    request = message_factory.GetMessageClass(descriptor.input_type)()
    given = {key: value for key, value in fields.items() if value is not None}
    try:
        json_format.ParseDict(given, request)
    except json_format.ParseError as err:
        fail(str(err), status=MISUSED)
    return lambda channel: getattr(stub(channel), name), request


def _chunks(files: Sequence[Path], first: Any) -> Iterator[Message]:
    message = first
    for path in files:
        with path.open("rb") as source:
            message.file_name = path.name
            message.data = source.read(CHUNK_BYTES)
            while message.file_name or message.data:
                yield message
                message = type(first)(data=source.read(CHUNK_BYTES))


def connect(target: str | None, data_dir: Path, *, tls: bool = False) -> Plane:
    """Reach the plane that was named, else the one that `spotplane dev` runs in ``data_dir``."""
    stack = dev_stack(data_dir)
    at = target or os.environ.get("SPOTPLANE_TARGET") or (stack or {}).get("grpc")
    token = _token() or (stack or {}).get("admin_token")
    address = str(at or DEFAULT_TARGET)
    if tls or os.environ.get("SPOTPLANE_TLS", "").lower() in {"1", "true"}:
        return Plane(grpc.secure_channel(address, grpc.ssl_channel_credentials()), token)
    return Plane(grpc.insecure_channel(address), token)


def dev_stack(data_dir: Path) -> dict[str, Any] | None:
    """What `spotplane dev` wrote about itself; None when it does not run there."""
    try:
        found: dict[str, Any] = json.loads((data_dir / "dev.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _token() -> str | None:
    path = os.environ.get("SPOTPLANE_ADMIN_TOKEN_FILE")
    if path:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as err:
            fail(f"SPOTPLANE_ADMIN_TOKEN_FILE: {err.strerror}", status=MISUSED)
    return os.environ.get("SPOTPLANE_ADMIN_TOKEN") or None


@contextmanager
def refusals(*, patient: bool = False) -> Iterator[None]:
    """End the command with one line when a call in the block fails.

    Args:
        patient: Whether a passed deadline is the expected end.
    """
    try:
        yield
    except grpc.RpcError as err:
        if patient and err.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return
        fail(_said(err))


def _said(err: grpc.RpcError) -> str:
    said: Iterable[Any] = err.trailing_metadata() or ()
    trailers: dict[str, Any] = dict(said)
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(bad)
    message = status.message or err.details() or ""
    fields = [f"; {v.field}: {v.description}" for v in bad.field_violations]
    more = "" if len(fields) == 1 and fields[0].endswith(message) else "".join(fields)
    return f"{info.reason or err.code().name}: {message}{more}"
