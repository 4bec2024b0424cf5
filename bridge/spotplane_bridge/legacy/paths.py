"""Variables of paths, and the headers of lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from google.protobuf.descriptor import Descriptor
from multidict import CIMultiDict

from spotplane_bridge.legacy.requests import Take, take
from spotplane_bridge.middleware import Exchange

_VARIABLE: Final = re.compile(r"\{([a-z0-9_]+)\}")
# What the field calls a client is a tenant in the product.
_USUAL: Final = {"client_id": "tenant_id"}


def variables(template: str) -> list[str]:
    """Names of a path's variables, left to right."""
    return _VARIABLE.findall(template)


def fields(template: str, given: Mapping[str, str], descriptor: Descriptor) -> frozenset[str]:
    """The request's fields that the path fills, by their last names.

    Raises:
        ValueError: A variable has no field.
    """
    return frozenset(
        _field(name, given, descriptor).rpartition(".")[2] for name in variables(template)
    )


def takes(template: str, given: Mapping[str, str], descriptor: Descriptor) -> list[Take]:
    """The variables as members of a request.

    Raises:
        ValueError: A variable has no field.
    """
    return [
        take(name, field=_field(name, given, descriptor), exact=True)
        for name in variables(template)
    ]


def _field(name: str, given: Mapping[str, str], descriptor: Descriptor) -> str:
    if name in given:
        return given[name]
    for candidate in (name, _USUAL.get(name, name), "id"):
        if candidate in descriptor.fields_by_name:
            return candidate
    raise ValueError(f"{descriptor.full_name} has no field for {{{name}}}")


def paging(descriptor: Descriptor) -> Callable[[Any, CIMultiDict[str]], None]:
    """What tells a list's total and where it goes on, if its answer says so in `pagination`."""
    found = descriptor.fields_by_name.get("pagination")
    if found is None or found.message_type is None:
        return lambda _response, _headers: None

    def tell(response: Any, headers: CIMultiDict[str]) -> None:
        headers["X-Total-Count"] = str(response.pagination.total)
        if response.pagination.next_page_token:
            headers["X-Next-Cursor"] = response.pagination.next_page_token

    return tell


def without_ticket(exchange: Exchange) -> str:
    """Path and query as a ticket was minted for, which could not know itself."""
    pairs = [
        (name, value)
        for name, value in parse_qsl(exchange.query, keep_blank_values=True)
        if name not in {"ticket", "last_event_id"}
    ]
    return f"{exchange.path}?{urlencode(pairs)}" if pairs else exchange.path
