"""Finds `SPOTPLANE_*` variables that no process of this version reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Final

PREFIX: Final = "SPOTPLANE_"
# Read by commands and tests themselves; processes declare theirs in their settings.
_COMMANDS: Final = frozenset(
    f"{PREFIX}{name}" for name in ("TARGET", "TLS", "API_KEY", "SERVER", "TEST_EXAMPLES")
)
# Kubernetes sets these for services whose names begin with "spotplane".
_SERVICE_LINK: Final = re.compile(r"SPOTPLANE_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+)")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A variable that nothing reads, and the known one that resembles it most."""

    name: str
    suggestion: str | None

    def __str__(self) -> str:
        hint = f"; did you mean {self.suggestion}?" if self.suggestion else ""
        return f"{self.name} is not a known setting{hint}"


def find_unknown(env: Mapping[str, str]) -> list[Unknown]:
    """Variables that no process reads, in alphabetical order.

    All processes' settings are known to each, because an installation may set them for all.
    """
    names = sorted(name for name in env if name.startswith(PREFIX))
    if not names:
        return []
    known = known_settings()
    return [
        Unknown(name, _closest(name, known))
        for name in names
        if name not in known
        and name.removesuffix("_FILE") not in known
        and not _SERVICE_LINK.fullmatch(name)
    ]


def _closest(name: str, known: Iterable[str]) -> str | None:
    # Without the prefix, which makes any two names alike.
    bare = [one.removeprefix(PREFIX) for one in known]
    found = get_close_matches(name.removeprefix(PREFIX), bare, n=1, cutoff=0.75)
    return f"{PREFIX}{found[0]}" if found else None


def known_settings() -> frozenset[str]:
    """Names of all settings, of the processes that are installed here."""
    recorder = _Recorder()
    with suppress(ModuleNotFoundError):
        from spotplane_bridge.config import BridgeConfig

        BridgeConfig.from_env(recorder)
    with suppress(ModuleNotFoundError):
        from spotplane_bridge.edge.config import EdgeConfig

        EdgeConfig.from_env(recorder)
    with suppress(ModuleNotFoundError):
        from spotplane_server.config import ServerConfig

        recorder.names |= {f"{PREFIX}{field.name.upper()}" for field in fields(ServerConfig)}
    return frozenset(recorder.names) | _COMMANDS


class _Recorder(Mapping[str, str]):
    """An empty environment that remembers what was read of it."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
