"""Plausible values of members, from the prose of the document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from tests.openapi.world import Pools

_DEEPEST: Final = 4
_QUOTED: Final = re.compile(r"`([a-z0-9][a-z0-9_.\-]{0,39})`")
_BEGINNING: Final = re.compile(r"^(start|since|from|after)")
_INSTANT: Final = re.compile(r"(_date|_time|_at|timestamp|since|until)$")


class Vocabulary:
    """Values for members by their names, from the comments of the document and from responses.

    The contract's closed sets are plain strings, listed in the comments only.

    Args:
        document: The OpenAPI document.
        pools: Ids of existing objects.
    """

    def __init__(self, document: dict[str, Any], pools: Pools) -> None:
        self._document = document
        self._pools = pools
        self._words: dict[str, list[str]] = {}
        self._read(document["paths"])
        self._read(document["components"]["schemas"])

    def value(self, name: str, random: Random) -> Any:
        """Return a plausible value for a member of this name; None if there is none."""
        found = self._pools.pick(name, random)
        if found is not None:
            return found
        if name in self._words:
            return random.choice(self._words[name])
        if _INSTANT.search(name):
            days = random.choice((0.01, 1, 3, 40)) if _BEGINNING.match(name) else 0
            return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return None

    def suit(self, reply: Any, random: Random) -> Any:
        """Replace some texts by plausible values, at any depth."""
        if isinstance(reply, list):
            return [self.suit(item, random) for item in reply]
        if not isinstance(reply, dict):
            return reply
        suited = {}
        for name, value in reply.items():
            usual = self.value(name, random) if isinstance(value, (str, type(None))) else None
            suited[name] = self.suit(value, random)
            if usual is not None and random.random() < 0.6:
                suited[name] = usual
        return suited

    def variables(self, operation: Any) -> list[str]:
        """Names of the variables of its path."""
        return re.findall(r"\{(\w+)\}", operation.path)

    def queries(self, operation: Any) -> list[str]:
        """Names of its query parameters."""
        parameters = operation.definition.raw.get("parameters", ())
        return [p["name"] for p in parameters if p["in"] == "query"]

    def sample(self, operation: Any) -> Any:
        """Its body as the document's example; None if it has none in JSON."""
        content = operation.definition.raw.get("requestBody", {}).get("content", {})
        return content.get("application/json", {}).get("example")

    def spread(self, operation: Any, values: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """Return bodies with one member each: every member, at any depth, with each value."""
        content = operation.definition.raw["requestBody"]["content"]["application/json"]
        for way in self._ways(content["schema"]):
            for value in values:
                reply = value
                for step in reversed(way):
                    reply = [reply] if step is None else {step: reply}
                yield reply

    def _ways(self, schema: Any, depth: int = 0) -> Iterator[tuple[str | None, ...]]:
        """Return the paths to all members of an object: names, and None for an item of a list."""
        if "$ref" in schema:
            schema = self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        if depth > _DEEPEST:
            return
        for name, member in schema.get("properties", {}).items():
            yield (name,)
            yield from ((name, *rest) for rest in self._ways(member, depth + 1))
        if "items" in schema:
            yield from ((None, *rest) for rest in self._ways(schema["items"], depth + 1))

    def _read(self, reply: Any, name: str = "") -> None:
        if isinstance(reply, list):
            for item in reply:
                self._read(item, name)
        elif isinstance(reply, dict):
            name = reply["name"] if isinstance(reply.get("name"), str) and "in" in reply else name
            text = reply.get("description")
            if isinstance(text, str) and name:
                known = self._words.setdefault(name, [])
                known += [word for word in _QUOTED.findall(text) if word not in known]
                if not known:
                    del self._words[name]
            for key, value in reply.items():
                if key == "properties":
                    for member, schema in value.items():
                        self._read(schema, member)
                elif key not in {"example", "responses"} or not name:
                    self._read(value, name if key in {"items", "schema", "oneOf"} else "")
