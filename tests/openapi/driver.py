"""Sends requests generated from the document and checks the responses against it."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from urllib.parse import quote

import hypothesis
import requests
import schemathesis
from aiohttp import ClientError, ClientSession
from hypothesis import HealthCheck, Phase
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation.drivers import CoverageGenerator
from schemathesis.generation.feedback import NO_FEEDBACK
from schemathesis.generation.overrides import Override
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from yarl import URL

from tests.openapi.nasty import Wire, requests_of
from tests.openapi.vocabulary import Vocabulary
from tests.openapi.world import World
from tests.parity.cases import NOBODYS_ID

# Made anew by aiohttp, or of no meaning to the bridge.
_UNSENT: Final = frozenset({"content-length", "connection", "x-schemathesis-testcaseid"})
_FOR_ADMINISTRATORS: Final = ("admin", "admin", "key", "admin", "admin", "nobody", "admin", "agent")
_FOR_TENANTS: Final = ("key", "key", "admin", "agent", "key", "key", "agent", "nobody")


@dataclass(frozen=True)
class Effort:
    """Limits of the requests per operation; they are the same in every run.

    Attributes:
        systematic: Values at the limits of the schema, and invalid ones one by one.
        drawn: Random ones, valid and invalid.
        nasty: Hand-written ones that no schema describes.
        every_caller: Whether each caller sends each, rather than the next.
    """

    systematic: int
    drawn: int
    nasty: int
    every_caller: bool = False


def load(document: dict[str, Any]) -> list[Any]:
    """The operations of a document."""
    # Credentials are ours: made-up ones would end most requests before they begin.
    config = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
    schema = schemathesis.openapi.from_dict(document, config=config)
    found: Iterator[Any] = schema.get_all_operations()
    return [result.ok() for result in found]


@dataclass
class Driver:
    """Calls operations and collects faults, each kind of fault of an operation once.

    Attributes:
        world: Callers and existing objects.
        words: Values from the document.
        http: Client session.
        base: Address of the bridge.
        faults: Human-readable faults.
        counts: Responses by operation and status.
    """

    world: World
    words: Vocabulary
    http: ClientSession
    base: str
    faults: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: dict[str, dict[int, int]] = field(default_factory=dict)

    async def drive(self, operation: Any, effort: Effort) -> None:
        """Try an operation."""
        turns = itertools.cycle(_callers(operation))
        for wire in self._wires(operation, effort):
            for who in tuple(self.world.callers) if effort.every_caller else (next(turns),):
                await self._ask(operation, wire, who)
        await self.world.revive()

    def _wires(self, operation: Any, effort: Effort) -> Iterator[Wire]:
        random = Random(operation.label)
        for case in _thinned(_systematic(operation), effort.systematic):
            if (wire := self._wire(operation, case, random)) is not None:
                yield wire
        for case in _drawn(operation, effort.drawn) if effort.drawn else ():
            if (wire := self._wire(operation, case, random)) is not None:
                yield wire

        def place(template: str, **given: str) -> str:
            return re.sub(
                r"\{(\w+)\}", lambda m: given.get(m[1]) or self._known(m, random), template
            )

        nasty = list(requests_of(operation, self.words, place))
        yield from random.sample(nasty, min(effort.nasty, len(nasty)))

    def _known(self, variable: re.Match[str], random: Random) -> str:
        found = self.world.pools.of_variable(variable.string, variable[1], random)
        return quote(str(found or NOBODYS_ID), safe="")

    def _wire(self, operation: Any, case: Case[Any], random: Random) -> Wire | None:
        """Return a generated case about existing objects, mostly; None if HTTP cannot carry it."""
        for name in case.path_parameters:
            found = self.world.pools.of_variable(operation.path, name, random)
            if found is not None and random.random() < 0.75:
                case.path_parameters[name] = found
        case.query = self.words.suit(case.query, random)
        case.body = self.words.suit(case.body, random)
        try:
            arguments = case.as_transport_kwargs(base_url=self.base)
            prepared = requests.Request(**arguments).prepare()
        except (ValueError, requests.RequestException):
            return None
        body: Any = prepared.body
        if isinstance(body, str):
            body = body.encode()
        headers = {n: _text(v) for n, v in prepared.headers.items() if n.lower() not in _UNSENT}
        return Wire(str(prepared.method), str(prepared.url).removeprefix(self.base), headers, body)

    async def _ask(self, operation: Any, wire: Wire, who: str) -> None:
        try:
            response = await self._send(wire, who)
        except (ClientError, TimeoutError) as err:
            self._blame(operation, wire, who, type(err).__name__, "no answer")
            return
        counts = self.counts.setdefault(operation.label, {})
        counts[response.status_code] = counts.get(response.status_code, 0) + 1
        checks = [not_a_server_error, status_code_conformance, content_type_conformance]
        if "json" in "".join(response.headers.get("content-type", ())):
            checks.append(response_schema_conformance)
            if response.status_code < 300:
                with suppress(ValueError):
                    self.world.pools.learn(operation.path, response.json())
        try:
            # Without what made it, so that no check takes it for a special case.
            variables = dict.fromkeys(self.words.variables(operation), "x")
            operation.Case(path_parameters=variables).validate_response(response, checks=checks)
        except FailureGroup as group:
            reply = f"{response.status_code} {response.content[:500]!r}"
            for failure in group.exceptions:
                wrong = f"{failure.title} {str(failure)[:400]}"
                self._blame(operation, wire, who, f"{response.status_code} {wrong[:120]}", reply)

    def _blame(self, operation: Any, wire: Wire, who: str, wrong: str, reply: str) -> None:
        fault = f"{operation.label} by {who}: {wrong}\n  sent {wire}\n  reported {reply}"
        self.faults.setdefault((operation.label, wrong), fault[:3000])

    async def _send(self, wire: Wire, who: str) -> schemathesis.Response:
        credential = {} if wire.anonymous else self.world.callers[who]
        started = time.perf_counter()
        async with self.http.request(
            wire.method,
            URL(self.base + wire.target, encoded=True),
            data=wire.body,
            headers={**wire.headers, **credential},
            skip_auto_headers=("Content-Type",),
        ) as answer:
            # A stream of events has no end; its first bytes say whether it began.
            has_end = answer.content_type != "text/event-stream"
            content = await (answer.content.read() if has_end else answer.content.readany())
            if not has_end:
                answer.close()
            sent = requests.Request(wire.method, self.base).prepare()
            sent.url = self.base + wire.target
            return schemathesis.Response(
                answer.status,
                {name: answer.headers.getall(name) for name in answer.headers},
                content,
                sent,
                time.perf_counter() - started,
                verify=False,
                encoding="utf-8",
                stream_cut_short=not has_end,
            )


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _callers(operation: Any) -> tuple[str, ...]:
    needs = operation.definition.raw["security"]
    is_for_administrators = needs and all("AdminToken" in need for need in needs)
    return _FOR_ADMINISTRATORS if is_for_administrators else _FOR_TENANTS


def _systematic(operation: Any) -> list[Case[Any]]:
    generator = CoverageGenerator(
        operation=operation,
        generation_modes=list(GenerationMode),
        generation_config=operation.schema.config.generation_for(
            operation=operation, phase="coverage"
        ),
        auth_storage=None,
        override=Override(),
        feedback=NO_FEEDBACK,
    )
    # Other methods are handled by the middleware, and tested there.
    return [case for case in generator if case.method.lower() == operation.method.lower()]


def _thinned(cases: list[Case[Any]], most: int) -> list[Case[Any]]:
    """Return this many, evenly spread over the list."""
    step = max(1.0, len(cases) / most) if most else 1.0
    return [cases[int(index * step)] for index in range(min(most, len(cases)))]


def _drawn(operation: Any, count: int) -> list[Case[Any]]:
    found: list[Case[Any]] = []

    @hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(
        hypothesis.strategies.one_of(
            *(operation.as_strategy(generation_mode=mode) for mode in GenerationMode)
        )
    )
    def collect(case: Case[Any]) -> None:
        found.append(case)

    collect()
    return found
