"""What a statement returns is what the dataclass made of its rows asks for: names and types."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import spotplane_server
from spotplane_server.kernel.db.database import ALL_TENANTS, Database

PYTHON: Final[dict[str, tuple[type, ...]]] = {
    "int4": (int,),
    "int8": (int,),
    "xid8": (int,),
    "float4": (float,),
    "float8": (float,),
    "numeric": (Decimal,),
    "bool": (bool,),
    "text": (str,),
    "uuid": (UUID,),
    "bytea": (bytes,),
    "timestamptz": (datetime,),
    "interval": (timedelta,),
    "jsonb": (dict, list, Mapping, Sequence),
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Use:
    """A dataclass that is built from rows; ``whole`` when it takes every column."""

    kind: type
    given: frozenset[str]
    whole: bool


@dataclass(frozen=True)
class Pair:
    """A statement, and what is built from its rows."""

    name: str
    statement: str
    use: Use


def _modules() -> Iterator[types.ModuleType]:
    for module in pkgutil.walk_packages(spotplane_server.__path__, "spotplane_server."):
        if not module.ispkg and not module.name.endswith("__main__"):
            yield importlib.import_module(module.name)


def _uses(function: Function, names: dict[str, Any]) -> Iterator[Use]:
    """Dataclasses that a function builds from a mapping."""
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        kind = names.get(node.func.id)
        stars = [word.value for word in node.keywords if word.arg is None]
        if stars and dataclasses.is_dataclass(kind) and isinstance(kind, type):
            whole = isinstance(stars[0], ast.Name) and stars[0].id == "row"
            given = frozenset(word.arg for word in node.keywords if word.arg)
            yield Use(kind, given, whole)


def _fetched(function: Function) -> Iterator[str]:
    """Names of the statements whose rows a function reads."""
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("fetch", "fetchrow")
            and node.args
            and isinstance(node.args[0], ast.Name)
        ):
            yield node.args[0].id


def _called(function: Function) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def pairs() -> Iterator[Pair]:
    """Statements and dataclasses that meet in one function, or through a helper beside it."""
    for module in _modules():
        names = vars(module)
        tree = ast.parse(inspect.getsource(module))
        functions = [node for node in tree.body if isinstance(node, Function)]
        helpers = {f.name: list(_uses(f, names)) for f in functions if not list(_fetched(f))}
        for function in functions:
            uses = list(_uses(function, names))
            for helper in _called(function) & set(helpers):
                uses += helpers[helper]
            for constant in _fetched(function):
                if isinstance(names.get(constant), str):
                    for use in uses:
                        yield Pair(f"{module.__name__}.{constant}", names[constant], use)


ALL: Final = list(pairs())


def _plain(annotation: Any) -> set[type]:
    """The classes that a value of the annotation has; NoneType left out."""
    if isinstance(annotation, typing.NewType):
        return _plain(annotation.__supertype__)
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return {kind for part in typing.get_args(annotation) for kind in _plain(part)}
    if origin is typing.Literal:
        return {type(value) for value in typing.get_args(annotation)}
    if annotation is type(None):
        return set()
    return {origin or annotation}


def _fits(column: str, annotation: Any) -> bool:
    wanted = (list, Sequence) if column.endswith("[]") else PYTHON.get(column, ())
    found = _plain(annotation) - {type(None)}
    return bool(found) and (Any in found or found <= set(wanted))


def _fault(pair: Pair, columns: dict[str, str]) -> str | None:
    fields = {item.name: item for item in dataclasses.fields(pair.use.kind)}
    hints = typing.get_type_hints(pair.use.kind)
    # What has a default may be left out; what another argument gives is no column.
    needed = {
        name
        for name, item in fields.items()
        if item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
        and name not in pair.use.given
        and not any(dataclasses.is_dataclass(kind) for kind in _plain(hints[name]))
    }
    if missing := needed - set(columns):
        return f"lacks {sorted(missing)}"
    if pair.use.whole and (more := set(columns) - set(fields)):
        return f"has {sorted(more)} besides"
    unfit = {
        name: (columns[name], hints[name])
        for name in fields
        if name in columns and not _fits(columns[name], hints[name])
    }
    return f"{unfit}" if unfit else None


def test_there_are_pairs() -> None:
    """The search itself works."""
    assert len(ALL) > 30


async def test_every_row_fits_the_dataclass_that_is_made_of_it(db: Database) -> None:
    """Same names, and types that are what the annotations say."""
    faults: dict[str, str] = {}
    async with db.connection(ALL_TENANTS) as conn:
        for pair in ALL:
            prepared = await conn.prepare(pair.statement)
            columns = {item.name: item.type.name for item in prepared.get_attributes()}
            fault = _fault(pair, columns)
            if fault is not None:
                faults[f"{pair.name} -> {pair.use.kind.__name__}"] = fault
    assert not faults
