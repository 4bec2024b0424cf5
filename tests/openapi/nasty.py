"""Requests that no document describes, as broken clients, proxies and attackers send them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from tests.openapi.vocabulary import Vocabulary
from tests.parity.worlds import Headers

# As they stand in a path or a query.
CODED: Final = (
    "%00",
    "a%00b",
    "%FF",
    "%ED%A0%80",
    "%0A",
    "%2F",
    "..%2F..",
    "%2e%2e",
    "%",
    "%zz",
    "%20",
    "%F0%9F%A6%80",
    "9" * 40,
    "2147483648",
    "9223372036854775808",
    "-9223372036854775809",
    "-1",
    "1e400",
    "NaN",
    "0001-01-01T00%3A00%3A00Z",
    "0001-01-01T00%3A00%3A00%2B23%3A59",
    "9999-12-31T23%3A59%3A59.999999999Z",
    "9999-12-31T23%3A59%3A59-23%3A59",
    "x" * 3000,
)
TEXTS: Final = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\U0010ffff",
    "99999999999999999999",
    "1e400",
    "NaN",
    "../..",
    "'\"\\;--",
    "2026-02-30T00:00:00Z",
    "2026-01-01T23:59:60Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59-23:59",
    "00000000-0000-0000-0000-000000000000",
    "x" * 70_000,
)
VALUES: Final[tuple[Any, ...]] = (
    *TEXTS,
    None,
    True,
    0,
    -1,
    -0.5,
    1e308,
    5e-324,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**30,
    [],
    {},
    [[]],
    [None],
    ["\0"],
    [{}],
    {"\0": "\0"},
    {"a": {"b": [1e308, None, "\0"]}},
    ["x"] * 2000,
)
BODIES: Final = (
    b"",
    b" ",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"1",
    b"NaN",
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b'{"a": 1' + b"0" * 400 + b"}",
    b"\xff\xfe",
    b'{"a": "\xff"}',
    b'\xef\xbb\xbf{"a": 1}',
    '{"a": 1}'.encode("utf-16"),
    b'{"\\u0000": 1}',
    b'{"\\ud800": "\\udc00"}',
    b"[" * 5000,
    b'{"a":' * 400 + b"1" + b"}" * 400,
    b'{"a": 1, "a": {}}',
    b"a=1&b=2",
)
HEADERS: Final[tuple[Headers, ...]] = (
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Type": "multipart/form-data"},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Content-Type": ";;;"},
    {"Content-Encoding": "gzip"},
    {"Content-Encoding": "nonsense"},
    {"Accept": "image/png"},
    {"Accept": "text/csv"},
    {"Idempotency-Key": ""},
    {"Idempotency-Key": "k" * 5000},
    {"Idempotency-Key": "\u00e9\u2603"},
    {"Idempotency-Key": "same for all"},
    {"X-Request-ID": "\u2603" * 200},
    {"X-Request-ID": "same-for-all"},
    {"X-Correlation-ID": "x" * 5000},
    {"X-Forwarded-For": "not, an, address"},
    {"X-Instance-Id": "\u00e9"},
    {"Last-Event-ID": "99999999999999999999999"},
    {"traceparent": "00-zz-zz-zz"},
    {"grpc-timeout": "1n"},
    {"Range": "bytes=5-1"},
    {"Origin": "null"},
)
CREDENTIALS: Final[tuple[Headers, ...]] = (
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer  "},
    {"Authorization": "Bearer a b"},
    {"Authorization": "Basic YTpi"},
    {"Authorization": "Bearer \u2603"},
    {"Authorization": "Bearer sp_live_" + "a" * 5000},
    {"Authorization": "Bearer sp_agent_x"},
    {"X-Admin-Token": "\u00e9"},
    {"X-Admin-Token": "x" * 5000},
    {"X-Client-Token": "\u2603"},
)


class Place(Protocol):
    """Fills the variables of a path with existing ids, or with given texts."""

    def __call__(self, template: str, **given: str) -> str: ...


@dataclass(frozen=True)
class Wire:
    """One request as it is sent.

    Attributes:
        method: HTTP method.
        target: Path and query.
        headers: Besides the caller's credential.
        body: None for no body.
        anonymous: Whether the caller's credential is left out.
    """

    method: str
    target: str
    headers: Headers = field(default_factory=dict)
    body: bytes | None = None
    anonymous: bool = False


def requests_of(operation: Any, vocabulary: Vocabulary, place: Place) -> Iterator[Wire]:
    """All of them for an operation of the document."""
    method, template = operation.method.upper(), operation.path
    target = place(template)
    sample = vocabulary.sample(operation)
    body = None if sample is None else json.dumps(sample).encode()
    typed = {} if body is None else {"Content-Type": "application/json"}
    for name in vocabulary.variables(operation):
        for text in CODED:
            yield Wire(method, place(template, **{name: text}), typed, body)
    queries = vocabulary.queries(operation)
    for name in queries:
        for text in CODED:
            yield Wire(method, f"{target}?{name}={text}", typed, body)
        yield Wire(method, f"{target}?{name}=1&{name}=2", typed, body)
        yield Wire(method, f"{target}?{name}", typed, body)
    yield Wire(method, f"{target}?" + "&".join(f"{n}=" for n in queries), typed, body)
    yield Wire(method, f"{target}?" + "&".join(f"x{n}={n}" for n in range(200)), typed, body)
    yield Wire(method, f"{target}?%00=1", typed, body)
    for headers in HEADERS:
        yield Wire(method, target, {**typed, **headers}, body)
    for headers in CREDENTIALS:
        yield Wire(method, target, {**typed, **headers}, body, anonymous=True)
    for sent in BODIES:
        yield Wire(method, target, {"Content-Type": "application/json"}, sent)
    if sample is not None:
        for reply in vocabulary.spread(operation, VALUES):
            yield Wire(method, target, typed, json.dumps({**sample, **reply}).encode())
