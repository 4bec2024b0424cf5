"""HTTP headers and gRPC metadata: response headers, CORS, request ids and caller metadata."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import uuid4

from multidict import CIMultiDict

from spotplane_bridge.config import Network
from spotplane_bridge.errors import ErrorFormat, invalid

Metadata: TypeAlias = tuple[tuple[str, str], ...]

SECURITY: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # The HTTP library would otherwise name itself and its version.
    "Server": "spotplane",
    # A cache must not serve the response for one origin to another one.
    "Vary": "Origin",
}

_ALLOW_METHODS: Final = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
_ALLOW_HEADERS: Final = ", ".join(
    (
        "Accept",
        "Authorization",
        "Content-Type",
        "Idempotency-Key",
        "Last-Event-ID",
        "X-Admin-Token",
        "X-Client-Token",
        "X-Correlation-ID",
        "X-Instance-Id",
        "X-Request-ID",
        "X-Response-Format",
    )
)
_EXPOSE_HEADERS: Final = ", ".join(
    (
        "Content-Disposition",
        "Idempotent-Replayed",
        "Link",
        "Retry-After",
        "X-Correlation-ID",
        "X-Next-Cursor",
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
        "X-Request-ID",
        "X-Total-Count",
    )
)
_MAX_AGE_SECONDS: Final = "300"

# Metadata that becomes headers of a success, with the contract's spelling.
_PASSED: Final = {
    "content-disposition": "Content-Disposition",
    "idempotent-replayed": "Idempotent-Replayed",
    "link": "Link",
    "retry-after": "Retry-After",
    "x-next-cursor": "X-Next-Cursor",
    "x-ratelimit-limit": "X-RateLimit-Limit",
    "x-ratelimit-remaining": "X-RateLimit-Remaining",
    "x-ratelimit-reset": "X-RateLimit-Reset",
    "x-total-count": "X-Total-Count",
}
_HTTP_STATUS: Final = "x-spotplane-http-status"

# Request headers that are forwarded as metadata, with their maximum length in characters.
_FORWARDED: Final = {
    "Authorization": ("authorization", 1024),
    "X-Admin-Token": ("x-admin-token", 1024),
    "X-Client-Token": ("x-client-token", 1024),
    "Idempotency-Key": ("idempotency-key", 256),
    "User-Agent": ("x-user-agent", 512),
}
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACE: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NOT_ASCII: Final = re.compile(r"[^\x20-\x7e]")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x20-\x7e]{8,128}")
_OWN_KEY: Final = re.compile(r"sp_[a-z0-9]{2,16}_[0-9A-Za-z]{32}_[0-9A-Za-z]{6}")


@dataclass(frozen=True, slots=True)
class Ids:
    """Ids of one request.

    Attributes:
        request: The caller's, echoed as `X-Request-ID`.
        correlation: The id in logs, audit rows, events and errors.
    """

    request: str
    correlation: str


def ids_of(headers: Mapping[str, str], error_format: ErrorFormat, method: str) -> Ids:
    """Return the caller's ids where they are well-formed, else new ones.

    Under `/api/**` a write's `X-Request-ID` makes it idempotent, and clients may send one value for
    every request, so it does not identify this request.
    """
    request = _well_formed(headers.get("X-Request-ID"))
    correlation = _well_formed(headers.get("X-Correlation-ID"))
    if error_format is ErrorFormat.CANONICAL:
        chosen = request or correlation or str(uuid4())
        return Ids(chosen, chosen)
    if correlation is None and method == "GET":
        correlation = request
    correlation = correlation or _trace(headers.get("traceparent")) or str(uuid4())
    return Ids(request or correlation, correlation)


def _well_formed(value: str | None) -> str | None:
    return value if value is not None and _ID.fullmatch(value) else None


def _trace(value: str | None) -> str | None:
    match = _TRACE.fullmatch(value) if value else None
    return match[1] if match else None


def client_ip(peer: str | None, forwarded: Iterable[str], trusted: Sequence[Network]) -> str | None:
    """Return the right-most hop that is no trusted proxy; None for a peer without an address.

    Args:
        peer: Address of the connection's other end.
        forwarded: Values of `X-Forwarded-For`, in their order.
        trusted: Networks of proxies.
    """
    hops = [hop.strip() for value in forwarded for hop in value.split(",")] if trusted else []
    client = peer
    while client is not None and _is_in(client, trusted) and hops:
        hop = hops.pop()
        if _address(hop) is None:
            break
        client = hop
    return client


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_in(text: str, networks: Sequence[Network]) -> bool:
    address = _address(text) if networks else None
    return address is not None and any(address in network for network in networks)


def forwarded_metadata(headers: Mapping[str, str], ids: Ids, client: str | None) -> Metadata:
    """Return the metadata of a call in the caller's name.

    Text outside ASCII cannot be sent as metadata and cannot be a valid credential either; it is
    sent
    with those characters replaced, so that the server rejects it like any other invalid credential.
    """
    metadata = [("x-request-id", ids.correlation)]
    for name, (key, longest) in _FORWARDED.items():
        value = headers.get(name)
        if value is not None:
            metadata.append((key, _NOT_ASCII.sub("?", value[:longest])))
    if client is not None:
        metadata.append(("x-forwarded-for", client))
    return tuple(metadata)


def trace_metadata(headers: Mapping[str, str]) -> Metadata:
    """Return the metadata of the request's trace; empty when the caller names none."""
    parent = headers.get("traceparent")
    if _trace(parent) is None or parent is None:
        return ()
    state = headers.get("tracestate")
    if state is None or len(state) > 512 or _NOT_ASCII.search(state):
        return (("traceparent", parent),)
    return (("traceparent", parent), ("tracestate", state))


def anonymous_metadata(
    headers: Mapping[str, str], ids: Ids, client: str | None
) -> list[tuple[str, str]]:
    """Return the metadata of a call that gets its credential elsewhere."""
    metadata = [("x-request-id", ids.correlation)]
    agent = headers.get("User-Agent")
    if agent is not None:
        metadata.append(("x-user-agent", _NOT_ASCII.sub("?", agent[:512])))
    if client is not None:
        metadata.append(("x-forwarded-for", client))
    return metadata


def idempotency_metadata(
    headers: Mapping[str, str], where: str, *, by_request_id: bool
) -> list[tuple[str, str]]:
    """Return the metadata of an idempotent write; empty when the caller sends no key.

    Args:
        headers: Headers of the request.
        where: Method and path, which the key belongs to.
        by_request_id: Whether `X-Request-ID` is such a key too. Some clients send one value for
            every request, so that another body under it is another request.

    Raises:
        Failure: 400, for a malformed key.
    """
    key = headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise invalid("INVALID_FIELD", "Idempotency-Key", "must be 8 to 128 printable characters")
    alias = headers.get("X-Request-ID") if by_request_id else None
    if key is None and (alias is None or not _IDEMPOTENCY_KEY.fullmatch(alias)):
        return []
    metadata = [("idempotency-key", key or alias or ""), ("x-idempotency-scope", where[:1024])]
    return [*metadata, ("x-idempotency-alias", "x-request-id")] if key is None else metadata


def key_prefix(headers: Mapping[str, str]) -> str | None:
    """Return the first 12 characters of the key, for logs; None if the key is short."""
    key = headers.get("Authorization", "").removeprefix("Bearer ") or headers.get(
        "X-Client-Token", ""
    )
    return key[:12] if _OWN_KEY.fullmatch(key) else None


def response_headers(ids: Ids, origin: str | None, allowed: frozenset[str]) -> CIMultiDict[str]:
    """Return the headers that every response carries.

    Args:
        ids: Ids of the request.
        origin: The page's origin, if the browser sent one.
        allowed: Origins that may read the response.
    """
    headers = CIMultiDict(SECURITY)
    headers["X-Request-ID"] = ids.request
    headers["X-Correlation-ID"] = ids.correlation
    if origin is not None and origin in allowed:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
        headers["Access-Control-Expose-Headers"] = _EXPOSE_HEADERS
    return headers


def preflight_headers(headers: CIMultiDict[str]) -> None:
    """Add the headers of a CORS preflight response, if the origin is allowed."""
    if "Access-Control-Allow-Origin" in headers:
        headers["Access-Control-Allow-Methods"] = _ALLOW_METHODS
        headers["Access-Control-Allow-Headers"] = _ALLOW_HEADERS
        headers["Access-Control-Max-Age"] = _MAX_AGE_SECONDS


def metadata_to_headers(
    metadata: Iterable[tuple[str, str | bytes]], headers: CIMultiDict[str]
) -> int:
    """Convert the metadata of a success into headers, and return the requested HTTP status."""
    status = 200
    for key, value in metadata:
        if key in _PASSED and isinstance(value, str):
            headers[_PASSED[key]] = value
        elif key == _HTTP_STATUS and str(value).isdecimal():
            status = int(value)
    return status
