"""Exports: rows of a list as streamed CSV, or as JSON on request."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor

from spotplane_bridge.legacy.requests import Incoming
from spotplane_bridge.legacy.response_shapes import Compiled, Shape, ShapeError, Source

CONTENT_TYPE: Final = "text/csv; charset=utf-8"
# Spreadsheets treat text that begins so as a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an export.

    Attributes:
        title: In the header row.
        name: In the JSON form.
        source: As a member of a `Shape`.
        decimals: Digits after the point, all of them printed; None prints the value as it is.
    """

    title: str
    name: str
    source: Source
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Csv:
    """A file as response: `text/csv` with a header row always, or `{rows: […]}`.

    The RPC returns all rows at once, or streams messages of some rows each.

    Args:
        filename: Name of the attachment, computed from the request.
        columns: The columns in their order.
        rows: Repeated field of the response that holds the rows; empty when each streamed message
            is one row.
    """

    filename: Callable[[Incoming], str]
    columns: tuple[Column, ...]
    rows: str = "rows"

    def compile(self, descriptor: Descriptor) -> Table:
        """Bind the export to the response's type."""
        kind: Descriptor | None = descriptor
        if self.rows:
            found = descriptor.fields_by_name.get(self.rows)
            kind = found.message_type if found is not None and found.is_repeated else None
        if kind is None:
            raise ShapeError(f"{descriptor.full_name} has no list {self.rows}")
        shape = Shape(**{column.name: column.source for column in self.columns})
        return Table(self, shape.compile(kind))


class Table:
    """An export bound to its message type."""

    def __init__(self, declared: Csv, row: Compiled) -> None:
        self.declared = declared
        self.schema = {
            "type": "object",
            "properties": {"rows": {"type": "array", "items": row.schema}},
            "required": ["rows"],
        }
        self._row = row.get
        self._columns = [(column.name, column.decimals) for column in declared.columns]

    def header(self) -> bytes:
        """Return the header row."""
        return line(column.title for column in self.declared.columns)

    def rows(self, response: Any) -> Iterator[dict[str, Any]]:
        """Return the rows of one message as JSON objects."""
        found = getattr(response, self.declared.rows) if self.declared.rows else (response,)
        for row in found:
            yield self._row(row)

    def lines(self, response: Any) -> bytes:
        """Return the rows of one message as lines of CSV."""
        return b"".join(self._line(row) for row in self.rows(response))

    def _line(self, row: Mapping[str, Any]) -> bytes:
        return line(cell(row[name], decimals) for name, decimals in self._columns)


def line(cells: Iterable[str]) -> bytes:
    """Return one line of CSV, quoted where necessary."""
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue().encode()


def cell(value: Any, decimals: int | None = None) -> str:
    """Return a value as a cell; a `'` precedes text that a spreadsheet would treat as a formula."""
    if value is None:
        return ""
    if decimals is not None and isinstance(value, (int, float)):
        return f"{value:.{decimals}f}"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def wants_json(incoming: Incoming) -> bool:
    """Return whether the caller wants rows instead of a file."""
    return incoming.query.get("format", "").lower() == "json" or (
        "application/json" in incoming.headers.get("Accept", "").lower()
    )
