"""Plain technical English: words of a private idiom are counted, and may only become fewer.

`docs/glossary.md` has the terms to use instead. A hit is one of `WORDS` in the name of a function,
class, argument or variable, or in a docstring, comment or page.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
WORDS: Final = frozenset(
    [
        "told",
        "tell",
        "tells",
        "telling",
        "said",
        "say",
        "says",
        "saying",
        "heard",
        "hear",
        "hears",
        "hearing",
        "speak",
        "speaks",
        "speaking",
        "spoke",
        "spoken",
        "nobody",
        "somebody",
        "anybody",
        "whoever",
        "whomever",
        "whatever",
        "whom",
        "whichever",
        "bury",
        "buried",
        "doomed",
        "bell",
        "bells",
        "rung",
        "seat",
        "seats",
        "spared",
        "leftovers",
        "succession",
        "departures",
        "narrator",
        "lingers",
        "mend",
        "mends",
        "mended",
        "mending",
        "furnishing",
    ]
)
_SPLIT: Final = re.compile(r"[A-Za-z][a-z]+|[A-Z]+(?![a-z])")
# Hits that are left, by folder. A commit that removes hits lowers the number; none raises it.
ALLOWED: Final = {
    "server/spotplane_server/agents": 155,
    "server/spotplane_server/audit": 2,
    "server/spotplane_server/catalog": 0,
    "server/spotplane_server/cli": 16,
    "server/spotplane_server/decisions": 113,
    "server/spotplane_server/dev": 41,
    "server/spotplane_server/events": 9,
    "server/spotplane_server/failover": 46,
    "server/spotplane_server/fleet": 80,
    "server/spotplane_server/insights": 6,
    "server/spotplane_server/instances": 15,
    "server/spotplane_server/kernel": 125,
    "server/spotplane_server/market": 12,
    "server/spotplane_server/nodes": 81,
    "server/spotplane_server/notifications": 27,
    "server/spotplane_server/prices": 30,
    "server/spotplane_server/replicas": 55,
    "server/spotplane_server/savings": 7,
    "server/spotplane_server/spending": 0,
    "server/spotplane_server/switches": 33,
    "server/spotplane_server/tenants": 0,
    "server/spotplane_server/usage": 12,
    "bridge": 0,
    "agents_sdk": 0,
    "benchmarks": 44,
    "docs": 11,
    "tests/abuse": 2,
    "tests/agents": 55,
    "tests/audit": 13,
    "tests/bench": 1,
    "tests/bridge": 1,
    "tests/catalog": 26,
    "tests/cli": 22,
    "tests/clients": 1,
    "tests/decisions": 54,
    "tests/dev": 10,
    "tests/envoy": 1,
    "tests/events": 7,
    "tests/failover": 31,
    "tests/faults": 5,
    "tests/fleet": 17,
    "tests/insights": 5,
    "tests/invariants": 69,
    "tests/kernel": 63,
    "tests/legacy": 34,
    "tests/market": 36,
    "tests/nodes": 33,
    "tests/notifications": 16,
    "tests/openapi": 1,
    "tests/packaging": 1,
    "tests/parity": 0,
    "tests/replicas": 12,
    "tests/savings": 17,
    "tests/sdk": 13,
    "tests/spending": 27,
    "tests/states": 33,
    "tests/support": 18,
    "tests/switches": 19,
    "tests/tenants": 7,
    "tests/usage": 65,
}


def _hits(text: str) -> int:
    return sum(word.lower() in WORDS for word in _SPLIT.findall(text))


def _texts(path: Path) -> Iterator[str]:
    """The names and the prose of a file."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        yield text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.arg):
            yield node.arg
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


@pytest.mark.parametrize("folder", ALLOWED)
def test_words_of_a_private_idiom_become_fewer(folder: str) -> None:
    files = [
        path
        for suffix in ("*.py", "*.md")
        for path in (ROOT / folder).rglob(suffix)
        if path != Path(__file__)
    ]

    assert files
    assert sum(_hits(text) for path in files for text in _texts(path)) <= ALLOWED[folder]
