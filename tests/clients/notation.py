"""The contract's notation of JSON, and a check of values against it.

A list of members: `id:u, name, email?, agents[]{id:u, status}, pool{id, az}?, reasons[]`. Types are
`s` text (also without a type), `i` integer, `n` number, `b` flag, `t` instant, `d` date, `u` UUID;
`?` may be null. Every member is present, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

_TOKEN: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|\[\]|[{}:?,])")


@dataclass(frozen=True)
class Member:
    """One member: its type is a letter, or the members of an object."""

    name: str
    kind: str | tuple[Member, ...]
    listed: bool
    nullable: bool


def parse(text: str) -> tuple[Member, ...]:
    """Read members.

    Raises:
        ValueError: The text is none.
    """
    tokens = list(_tokens(text))
    members = _members(tokens)
    if tokens:
        raise ValueError(f"unexpected {tokens[0]}")
    return members


def faults(value: Any, members: tuple[Member, ...], at: str = "") -> list[str]:
    """Return the faults of an object, by path; empty when it matches the notation."""
    if not isinstance(value, dict):
        return [f"{at or 'body'} is no object: {value!r}"]
    wanted = {member.name for member in members}
    found = [f"{at}.{name} is missing" for name in sorted(wanted - value.keys())]
    found += [f"{at}.{name} is not documented" for name in sorted(value.keys() - wanted)]
    for member in members:
        if member.name in value:
            found += _member_faults(value[member.name], member, f"{at}.{member.name}")
    return found


def _member_faults(value: Any, member: Member, at: str) -> list[str]:
    if value is None:
        return [] if member.nullable else [f"{at} is null"]
    if not member.listed:
        return _value_faults(value, member.kind, at)
    if not isinstance(value, list):
        return [f"{at} is no list"]
    return [
        fault
        for number, item in enumerate(value)
        for fault in _value_faults(item, member.kind, f"{at}[{number}]")
    ]


def _value_faults(value: Any, kind: str | tuple[Member, ...], at: str) -> list[str]:
    if isinstance(kind, tuple):
        return faults(value, kind, at) if kind else []
    return [] if _is(value, kind) else [f"{at} is not of type {kind}: {value!r}"]


def _is(value: Any, kind: str) -> bool:
    if kind == "b":
        return isinstance(value, bool)
    if kind == "i":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "n":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if not isinstance(value, str):
        return False
    readers: dict[str, Callable[[str], Any]] = {"t": _instant, "d": date.fromisoformat, "u": UUID}
    try:
        readers.get(kind, str)(value)
    except ValueError:
        return False
    return True


def _instant(text: str) -> datetime:
    if not text.endswith("Z"):
        raise ValueError(text)
    return datetime.fromisoformat(text)


def _tokens(text: str) -> Iterator[str]:
    place, text = 0, text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"unreadable from {text[place:]!r}")
        yield match[1]
        place = match.end()


def _members(tokens: list[str]) -> tuple[Member, ...]:
    found = []
    while tokens and tokens[0] != "}":
        found.append(_member(tokens))
        if tokens and tokens[0] == ",":
            tokens.pop(0)
    return tuple(found)


def _member(tokens: list[str]) -> Member:
    name = tokens.pop(0)
    kind: str | tuple[Member, ...] = "s"
    listed = nullable = False
    while tokens and tokens[0] not in {",", "}"}:
        token = tokens.pop(0)
        if token == "[]":
            listed = True
        elif token == ":":
            kind = tokens.pop(0)
        elif token == "?":
            nullable = True
        elif token == "{":
            kind = _members(tokens)
            tokens.pop(0)
        else:
            raise ValueError(f"unexpected {token} after {name}")
    return Member(name, kind, listed, nullable)
