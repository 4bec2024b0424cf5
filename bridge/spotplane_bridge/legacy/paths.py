"""Path variables and list headers of legacy routes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from google.protobuf.descriptor import Descriptor
from multidict import CIMultiDict

from spotplane_bridge.legacy.requests import Parameter, parameter
from spotplane_bridge.middleware import RequestContext

_VARIABLE: Final = re.compile(r"\{([a-z0-9_]+)\}")
# The legacy API's clients are tenants.
_USUAL: Final = {"client_id": "tenant_id"}


def variables(template: str) -> list[str]:
    """Return the names of a path's variables, left to right."""
    return _VARIABLE.findall(template)


def fields(template: str, given: Mapping[str, str], descriptor: Descriptor) -> frozenset[str]:
    """Return the request's fields that the path fills, by their last names.

    Raises:
        ValueError: A variable has no field.
    """
    return frozenset(
        _field(name, given, descriptor).rpartition(".")[2] for name in variables(template)
    )


def parameters(template: str, given: Mapping[str, str], descriptor: Descriptor) -> list[Parameter]:
    """Return the variables as parameters of a request.

    Raises:
        ValueError: A variable has no field.
    """
    return [
        parameter(name, field=_field(name, given, descriptor), exact=True)
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
    """Return a function that sets a list's total and next cursor from `pagination`."""
    found = descriptor.fields_by_name.get("pagination")
    if found is None or found.message_type is None:
        return lambda _response, _headers: None

    def set_headers(response: Any, headers: CIMultiDict[str]) -> None:
        headers["X-Total-Count"] = str(response.pagination.total)
        if response.pagination.next_page_token:
            headers["X-Next-Cursor"] = response.pagination.next_page_token

    return set_headers


def without_ticket(exchange: RequestContext) -> str:
    """Return path and query as at the creation of the ticket, without the ticket itself."""
    pairs = [
        (name, value)
        for name, value in parse_qsl(exchange.query, keep_blank_values=True)
        if name not in {"ticket", "last_event_id"}
    ]
    return f"{exchange.path}?{urlencode(pairs)}" if pairs else exchange.path
