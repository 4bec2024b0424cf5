"""How answers are printed: tables for people, JSON for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

_NANOUSD: Final = "_nanousd"


def as_json(message: Message) -> str:
    """A message as JSON with the API's own field names, fields without a value included."""
    return json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        ensure_ascii=False,
    )


def many(answer: Message, columns: str, *, json: bool, field: str = "") -> None:
    """Print a list: a table of the columns, dotted paths and separated by spaces, or JSON.

    Args:
        answer: What holds the list.
        columns: Names of the items' fields.
        json: Print the whole answer.
        field: Where the list is; by default the answer's first repeated field.
    """
    if json:
        typer.echo(as_json(answer))
        return
    paths = columns.split()
    lists = (item.name for item in answer.DESCRIPTOR.fields if item.is_repeated)
    items: Sequence[Message] = getattr(answer, field or next(lists))
    table(paths, ([_at(item, path) for path in paths] for item in items))
    page = getattr(answer, "pagination", None)
    if page is not None and page.has_more:
        typer.echo(f"{len(items)} of {page.total}; --limit shows more", err=True)


def one(message: Message, *, json: bool) -> None:
    """Print one thing, a line for each field that has a value."""
    if json:
        typer.echo(as_json(message))
        return
    rows = []
    for field, value in message.ListFields():
        text = _named(field.name, value)
        if text:
            rows.append((_heading(field.name), text))
    table((), rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings; without headings, as names and values."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=bool(columns), pad_edge=False, header_style="bold")
    for column in columns:
        heading = column.removesuffix(".id").rpartition(".")[2]
        grid.add_column(_heading(heading).replace("_", " "), overflow="fold")
    console = Console()
    for row in rows:
        grid.add_row(*(Text(value) for value in row))
    if console.is_terminal:
        console.print(grid)
        return
    console.width = 400  # what reads a pipe folds no lines, and wants no padding
    with console.capture() as captured:
        console.print(grid)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def cell(value: Any) -> str:
    """One value as text for people."""
    if isinstance(value, Timestamp):
        return value.ToDatetime().isoformat(" ", "milliseconds") if value.ByteSize() else ""
    if isinstance(value, Message):
        return json_format.MessageToJson(value, preserving_proto_field_name=True, indent=None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 1000 else f"{value:.6g}"
    if isinstance(value, str | int):
        return str(value)
    return ", ".join(cell(item) for item in value)


def _at(item: Any, path: str) -> str:
    for name in path.split("."):
        if hasattr(item, "HasField") and _absent(item, name):
            return ""
        item = getattr(item, name)
    return _named(path, item)


def _named(name: str, value: Any) -> str:
    """A field's value as text for people, who count in dollars."""
    if name.endswith(_NANOUSD):
        return f"{value / 10**9:.6f}"
    return cell(value)


def _heading(name: str) -> str:
    return name.replace(_NANOUSD, "_usd")


def _absent(item: Message, name: str) -> bool:
    return item.DESCRIPTOR.fields_by_name[name].has_presence and not item.HasField(name)
