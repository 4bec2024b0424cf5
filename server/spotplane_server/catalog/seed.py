"""Import of a catalogue from a JSON document, and the two bundled documents.

docs/operations.md specifies the format. The document is validated before anything is stored, and
stored completely or not at all. Regions are identified by code, types by provider and
instance_type, models by name. New resources are created; of existing ones, the fields in the
document are updated and the others stay. Associations are only added; existing ones keep their
stock. Nothing is deleted. Importing the same document again changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from importlib import resources
from typing import Any, Final, Literal, TypeVar
from uuid import uuid4

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message
from spotplane.v1 import instance_type_pb2, model_pb2, region_pb2

from spotplane_server.catalog import (
    associations_store,
    instance_types_store,
    models_store,
    mutations,
    regions_store,
    requests,
    rules,
)
from spotplane_server.catalog.associations_store import OfferTerms
from spotplane_server.catalog.instance_types_store import InstanceType
from spotplane_server.kernel import request_context
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.errors import DomainError, Invalid, Semantic
from spotplane_server.kernel.request_context import Call, Caller

M = TypeVar("M", bound=Message)

EXAMPLES: Final = "seed.json"
LIST_PRICES: Final = "list_prices.json"
_MEMBERS: Final = frozenset({"as_of", "source", "providers", "regions", "instance_types", "models"})
_ORIGIN: Final = frozenset({"as_of", "source"})
_IMPORTER: Final = Caller("system", "catalog-import", "catalog import")

# Concurrent imports would create the same resources twice; the second one waits.
LOCK_IMPORT: Final = "SELECT pg_advisory_xact_lock(hashtextextended('catalog.import', 0))"


class InvalidDocument(Invalid):
    """A catalogue document is invalid; nothing was imported."""


@dataclass(frozen=True, slots=True)
class Report:
    """Counts of an import, by ``regions``, ``instance_types``, ``associations`` and ``models``."""

    created: Counter[str] = field(default_factory=Counter)
    updated: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)


def load_bundled(name: str = EXAMPLES) -> dict[str, Any]:
    """Load a bundled document: `EXAMPLES` or `LIST_PRICES`."""
    text = resources.files("spotplane_server.catalog").joinpath(name).read_bytes()
    document: dict[str, Any] = orjson.loads(text)
    return document


async def import_catalog(conn: Conn, document: Mapping[str, Any], now: datetime) -> Report:
    """Import a document completely or not at all; the caller opens the transaction.

    Raises:
        InvalidDocument: The message contains the position of the error.
    """
    regions, types, models = _read(document, now)
    call = Call("catalog.import", str(uuid4()), _IMPORTER)
    report = Report()
    with request_context.serving(call):
        await conn.execute(LOCK_IMPORT)
        for item in regions:
            with _at(item):
                await _region(conn, call, item, report, now)
        for item in types:
            with _at(item):
                await _type(conn, call, item, report, now)
        for item in models:
            with _at(item):
                await _model(conn, call, item, report, now)
    return report


Kind = Literal["regions", "instance_types", "models"]


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of one of the document's lists; ``regions`` is set for types only."""

    kind: Kind
    index: int
    body: dict[str, Any]
    regions: Any = None

    def read(self, message: type[M]) -> M:
        """Parse the item as a request."""
        try:
            return json_format.ParseDict(self.body, message())
        except json_format.ParseError as err:
            raise Invalid(str(err)) from err


def _read(
    document: Mapping[str, Any], now: datetime
) -> tuple[list[_Item], list[_Item], list[_Item]]:
    """Validate a document as far as possible without the database.

    Raises:
        InvalidDocument: The message contains the position of the error.
    """
    unknown = sorted(document.keys() - _MEMBERS)
    if unknown:
        raise InvalidDocument(f"unknown members: {', '.join(unknown)}")
    _check_origins(document)
    lists = tuple(_items(document, kind) for kind in ("regions", "instance_types", "models"))
    seen: dict[tuple[str, ...], str] = {}
    for item in (item for items in lists for item in items):
        with _at(item):
            key = (item.kind, *_key(item, now))
            if key in seen:
                raise Invalid(f"{' '.join(key[1:])} is given already, as {seen[key]}")
            seen[key] = f"{item.kind}[{item.index}]"
    regions, types, models = lists
    return regions, types, models


def _key(item: _Item, now: datetime) -> tuple[str, ...]:
    """Validate an item as a new resource and return its key."""
    if item.kind == "regions":
        return (requests.new_region(item.read(region_pb2.CreateRegionRequest), now).code,)
    if item.kind == "models":
        return (requests.new_model(item.read(model_pb2.CreateModelRequest), now).name,)
    wanted = item.regions
    if wanted != "all" and not (
        isinstance(wanted, list) and all(isinstance(code, str) for code in wanted)
    ):
        raise Invalid('regions must be "all" or a list of region codes', field="regions")
    new = requests.new_type(item.read(instance_type_pb2.CreateInstanceTypeRequest), now)
    return new.provider, new.instance_type


def _check_origins(document: Mapping[str, Any]) -> None:
    providers = document.get("providers", {})
    if not isinstance(providers, dict):
        raise InvalidDocument("providers must be an object")
    origins = {f"providers.{name}.": origin for name, origin in providers.items()}
    for name in providers.keys() - set(rules.PROVIDERS):
        raise InvalidDocument(f"providers.{name}: must be one of {', '.join(rules.PROVIDERS)}")
    origins[""] = {name: document[name] for name in _ORIGIN & document.keys()}
    for where, origin in origins.items():
        if not isinstance(origin, dict) or origin.keys() - _ORIGIN:
            raise InvalidDocument(f"{where[:-1]} must be an object of as_of and source")
        if not isinstance(origin.get("source", ""), str):
            raise InvalidDocument(f"{where}source must be a text")
        try:
            date.fromisoformat(origin.get("as_of", "2000-01-01"))
        except (TypeError, ValueError) as err:
            raise InvalidDocument(f"{where}as_of must be a date, e.g. 2026-01-31") from err


def _items(document: Mapping[str, Any], kind: Kind) -> list[_Item]:
    found = document.get(kind, [])
    if not isinstance(found, list) or not all(isinstance(body, dict) for body in found):
        raise InvalidDocument(f"{kind} must be a list of objects")
    if kind != "instance_types":
        return [_Item(kind, index, body) for index, body in enumerate(found)]
    return [
        _Item(
            kind, index, {k: v for k, v in body.items() if k != "regions"}, body.get("regions", [])
        )
        for index, body in enumerate(found)
    ]


@contextmanager
def _at(item: _Item) -> Iterator[None]:
    try:
        yield
    except DomainError as err:
        where = f"{item.kind}[{item.index}]"
        at_fault = ".".join([where, *(detail.field for detail in err.details[:1])])
        raise InvalidDocument(f"{at_fault}: {err.message}", field=at_fault) from err


async def _region(conn: Conn, call: Call, item: _Item, report: Report, now: datetime) -> None:
    new = requests.new_region(item.read(region_pb2.CreateRegionRequest), now)
    before = await regions_store.lock_region_by_code(conn, new.code)
    if before is None:
        await mutations.create_region(conn, call, new, now)
        report.created[item.kind] += 1
        return
    wanted = requests.changed_region(item.read(region_pb2.UpdateRegionRequest))(before)
    if wanted == before:
        report.unchanged[item.kind] += 1
        return
    await mutations.update_region(conn, call, before, wanted, now)
    report.updated[item.kind] += 1


async def _type(conn: Conn, call: Call, item: _Item, report: Report, now: datetime) -> None:
    new = requests.new_type(item.read(instance_type_pb2.CreateInstanceTypeRequest), now)
    before = await instance_types_store.lock_type_by_name(conn, new.provider, new.instance_type)
    if before is None:
        stored = await mutations.create_type(conn, call, new, now)
        report.created[item.kind] += 1
    else:
        request = item.read(instance_type_pb2.UpdateInstanceTypeRequest)
        stored = before
        wanted = requests.changed_type(request, may_be_empty=True)(before)
        if wanted == before:
            report.unchanged[item.kind] += 1
        else:
            stored = await mutations.update_type(conn, call, before, wanted, now)
            report.updated[item.kind] += 1
    await _associate(conn, call, stored, item.regions, report, now)


async def _associate(
    conn: Conn, call: Call, present: InstanceType, wanted: Any, report: Report, now: datetime
) -> None:
    if wanted == "all":
        wanted = await associations_store.list_region_codes(conn, present.provider)
    held = await associations_store.lock_regions_shared(conn, set(wanted))
    wrong = [c for c in wanted if c not in held or held[c].provider != present.provider]
    if wrong:
        raise Semantic(f"not regions of {present.provider}: {', '.join(wrong)}", field="regions")
    there = await associations_store.list_associated(conn, present.id)
    missing = [region for region in held.values() if region.id not in there]
    report.unchanged["associations"] += len(held) - len(missing)
    if missing:
        tally = await mutations.associate(
            conn, call, present, missing, OfferTerms(True, "available"), now
        )
        report.created["associations"] += tally.inserted


async def _model(conn: Conn, call: Call, item: _Item, report: Report, now: datetime) -> None:
    request = item.read(model_pb2.CreateModelRequest)
    new = requests.new_model(request, now)
    before = await models_store.lock_model_by_name(conn, new.name)
    if before is None:
        await mutations.create_model(conn, call, new, now)
        report.created[item.kind] += 1
        return
    wanted = requests.merged_model(request, before)
    if wanted == before:
        report.unchanged[item.kind] += 1
        return
    await mutations.update_model(conn, call, before, wanted, now)
    report.updated[item.kind] += 1
