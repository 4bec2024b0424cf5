"""EC2's instance metadata service, version 2: identity and interruption notices."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from spotplane_agents.errors import MetadataUnavailable
from spotplane_agents.identity import Identity, Mode
from spotplane_agents.notices import CloudNotice

logger: Final = logging.getLogger(__name__)

DEFAULT_ENDPOINT: Final = "http://169.254.169.254"
TOKEN_TTL_SECONDS: Final = 21_600
MAX_BODY_BYTES: Final = 64 << 10
LIFE_CYCLES: Final[dict[str, Mode]] = {"spot": "spot", "on-demand": "ondemand"}
# Set at launch by the EC2 provider; readable here when the instance exposes its tags.
AGENT_TAG: Final = "spotplane:agent"
REPLICA_TAG: Final = "spotplane:replica-id"


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    body: str


class Imds:
    """Client of the metadata service; renews its session token as needed."""

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT, *, timeout_seconds: float = 2.0) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{endpoint!r} is not an http:// address")
        self._host = parts.hostname
        self._port = parts.port or 80
        self._timeout = timeout_seconds
        self._token: str | None = None

    async def get(self, path: str) -> str | None:
        """Read one item; None when it does not exist.

        Raises:
            MetadataUnavailable: The service does not respond, or not as expected.
        """
        for _ in range(2):
            if self._token is None:
                self._token = await self._new_token()
            headers = {"X-aws-ec2-metadata-token": self._token}
            response = await self._request("GET", f"/latest/{path}", headers)
            if response.status == 401:  # the token has expired
                self._token = None
                continue
            if response.status == 404:
                return None
            if response.status == 200:
                return response.body
            break
        raise MetadataUnavailable(f"{path}: the metadata service answered {response.status}")

    async def identity(self, logical_agent_id: str | None = None) -> Identity:
        """Read the identity of this instance.

        Raises:
            MetadataUnavailable: This is no EC2 instance, or its metadata are disabled.
        """
        text = await self.get("dynamic/instance-identity/document")
        document = _json_object(text or "")
        try:
            return Identity(
                instance_id=str(document["instanceId"]),
                instance_type=str(document["instanceType"]),
                region=str(document["region"]),
                az=str(document["availabilityZone"]),
                logical_agent_id=logical_agent_id or await self._tag(AGENT_TAG),
                mode=await self._mode(),
                hostname=await self.get("meta-data/local-hostname"),
                image_id=document.get("imageId"),
                private_ip=document.get("privateIp"),
                public_ip=await self.get("meta-data/public-ipv4"),
                replica_id=await self._tag(REPLICA_TAG),
            )
        except KeyError as error:
            raise MetadataUnavailable(f"the identity document has no {error}") from error

    async def _mode(self) -> Mode:
        life_cycle = await self.get("meta-data/instance-life-cycle")
        return LIFE_CYCLES.get(life_cycle or "", "unknown")

    async def _tag(self, key: str) -> str | None:
        return await self.get(f"meta-data/tags/instance/{key}") or None

    async def _new_token(self) -> str:
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_SECONDS)}
        response = await self._request("PUT", "/latest/api/token", ttl)
        if response.status != 200 or not response.body:
            raise MetadataUnavailable(f"no session token: status {response.status}")
        return response.body

    async def _request(self, method: str, path: str, headers: dict[str, str]) -> _Response:
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    writer.write(_request_bytes(method, path, {"Host": self._host, **headers}))
                    await writer.drain()
                    return await _read_response(reader)
                finally:
                    writer.close()
        except (OSError, EOFError, ValueError) as error:  # OSError: the timeout is one too
            text = str(error) or "no response in time"
            raise MetadataUnavailable(f"the metadata service: {text}") from error


class ImdsNoticeSource:
    """Polls the metadata service every second; the calls are local and free."""

    def __init__(self, imds: Imds, *, period_seconds: float = 1.0) -> None:
        self._imds = imds
        self._period = period_seconds

    async def notices(self) -> AsyncIterator[CloudNotice]:
        """Yield each notice once."""
        seen: set[tuple[str, object]] = set()
        while True:
            for notice in await self._poll():
                # A rebalance recommendation has a fixed time; a changed deadline is a new notice.
                key = (notice.kind, notice.deadline)
                if key not in seen:
                    seen.add(key)
                    yield notice
            await asyncio.sleep(self._period)

    async def _poll(self) -> list[CloudNotice]:
        found = []
        try:
            action = await self._imds.get("meta-data/spot/instance-action")
            if action is not None:
                deadline = datetime.fromisoformat(_json_object(action)["time"])
                found.append(CloudNotice("termination", _now(), deadline))
            advice = await self._imds.get("meta-data/events/recommendations/rebalance")
            if advice is not None:
                found.append(CloudNotice("rebalance", _now()))
        except MetadataUnavailable as error:
            logger.warning("no notices can be seen: %s", error)
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("a notice cannot be read: %r", error)
        return found


def _now() -> datetime:
    return datetime.now(UTC)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise MetadataUnavailable("the metadata are not JSON") from error
    if not isinstance(value, dict):
        raise MetadataUnavailable("the metadata are not a JSON object")
    return value


def _request_bytes(method: str, path: str, headers: dict[str, str]) -> bytes:
    fields = {**headers, "Content-Length": "0", "Connection": "close"}
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


async def _read_response(reader: asyncio.StreamReader) -> _Response:
    """Read one response by its length, or up to the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.rstrip().split("\r\n")
    status = int(status_line.split(" ", 2)[1])
    fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    if "content-length" in fields:
        length = int(fields["content-length"])
        if length > MAX_BODY_BYTES:
            raise ValueError(f"a response of {length} bytes")
        body = await reader.readexactly(length)
    else:
        body = await reader.read()
    return _Response(status, body.decode())
