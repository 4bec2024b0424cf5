"""Paging of lists: by offset, or by a signed token that continues after the last key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import orjson
from google.protobuf.message import Message
from spotplane.v1 import pagination_pb2 as pb

from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Invalid

T = TypeVar("T")

MAX_OFFSET: Final = 2**31 - 1


class PageTokens:
    """Signs page tokens with the plane's own secret, so that every server accepts every token."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def seal(self, binding: str, key: Sequence[Any]) -> str:
        """Make the token that continues after ``key``."""
        body = orjson.dumps([binding, *map(_plain, key)])
        return base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")

    def open(self, binding: str, token: str) -> list[Any]:
        """Read a token's key.

        Raises:
            Invalid: ``INVALID_PAGE_TOKEN``: forged, damaged, or of another list.
        """
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        signature, body = raw[:16], raw[16:]
        if hmac.compare_digest(signature, self._sign(body)):
            found, *key = list[Any](orjson.loads(body))
            if found == binding:
                return key
        raise Invalid(
            "page_token is not of this list",
            reason="INVALID_PAGE_TOKEN",
            field="page_token",
            suggestion="pass next_page_token of the previous page, with the same filters",
        )

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[:16]


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is wanted.

    Attributes:
        limit: Items.
        offset: Items to skip.
        after: Key of the last item of the previous page, instants as RFC 3339; None at the start.
    """

    limit: int
    offset: int
    after: list[Any] | None
    binding: str

    def after_instant(self) -> tuple[datetime, UUID] | tuple[None, None]:
        """The key of lists by time and id, both None at the start."""
        if self.after is None:
            return None, None
        at, last = self.after
        return datetime.fromisoformat(at), UUID(last)


@dataclass(frozen=True, slots=True)
class Slice(Generic[T]):
    """A page's items as read: at most ``limit + 1`` of them, and how many match in all."""

    items: list[T]
    total: int


def read(
    request: Message,
    tokens: PageTokens,
    *,
    default: int,
    maximum: int,
    filters: Mapping[str, Any] | None = None,
) -> Page:
    """Read `limit`, `offset` and `page_token` of a list request.

    Args:
        request: Of the list; its type and ``filters`` bind the token.
        tokens: The plane's signer.
        default: Page size when none is given.
        maximum: Largest page size.
        filters: Values that the token must be used with again.

    Raises:
        Invalid: Out of range, or both offset and token, or a foreign token.
    """
    limit = wire.optional_integer(request, "limit", 1, maximum)
    offset = None
    if "offset" in request.DESCRIPTOR.fields_by_name:
        offset = wire.optional_integer(request, "offset", 0, MAX_OFFSET)
    token = wire.optional(request, "page_token")
    binding = _binding(request, filters or {})
    if token and offset is not None:
        raise Invalid(
            "offset and page_token exclude each other",
            reason="INVALID_PAGE_TOKEN",
            field="page_token",
        )
    after = tokens.open(binding, token) if token else None
    return Page(limit or default, offset or 0, after, binding)


def answer(
    page: Page, found: Slice[T], tokens: PageTokens, key: Callable[[T], Sequence[Any]]
) -> tuple[list[T], pb.Pagination]:
    """Cut a slice to its page and say where it stands.

    Args:
        page: As read.
        found: At most ``page.limit + 1`` items.
        tokens: The plane's signer.
        key: The unique sort key of an item.
    """
    items, pagination = cut(page, found)
    if pagination.has_more:
        pagination.next_page_token = tokens.seal(page.binding, key(items[-1]))
    return items, pagination


def cut(page: Page, found: Slice[T]) -> tuple[list[T], pb.Pagination]:
    """Cut a slice to its page and say where it stands, but for the token."""
    return found.items[: page.limit], pb.Pagination(
        total=found.total,
        limit=page.limit,
        offset=page.offset,
        has_more=len(found.items) > page.limit,
    )


def _binding(request: Message, filters: Mapping[str, Any]) -> str:
    body = orjson.dumps(
        [request.DESCRIPTOR.name, {k: _plain(v) for k, v in filters.items()}],
        option=orjson.OPT_SORT_KEYS,
    )
    return hashlib.sha256(body).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)
