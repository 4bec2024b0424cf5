"""Settings: each is read, each is used, and everything wrong is said at once."""

from __future__ import annotations

import ast
import dataclasses
import typing
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import spotplane_server
from spotplane_server import config
from spotplane_server.config import ConfigError, ServerConfig

FIELDS: Final = {item.name: item for item in dataclasses.fields(ServerConfig)}
HINTS: Final = typing.get_type_hints(ServerConfig)
# A text of each type that can be read, and one that cannot; any text is a text.
GOOD: Final[dict[Any, tuple[str, object]]] = {int: ("7", 7), bool: ("true", True), str: ("x", "x")}
BAD: Final[dict[Any, str]] = {int: "many", bool: "perhaps"}
# A clock may be behind as well as ahead.
SIGNED: Final = {"clock_offset_seconds"}
DATABASE: Final = {"SPOTPLANE_DATABASE_URL": "postgresql://db"}


def variable(name: str) -> str:
    """The variable of a setting."""
    return f"SPOTPLANE_{name.upper()}"


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_read_from_its_variable(name: str) -> None:
    """As what it is, and not as text."""
    kinds: dict[str, tuple[str, object]] = {
        "log_level": ("debug", "DEBUG"),
        "admin_token": ("t", "t"),
        "smtp_url": ("smtps://mail.example.com", "smtps://mail.example.com"),
        "smtp_sender": ("plane@example.com", "plane@example.com"),
        "otlp_endpoint": ("http://collector:4317", "http://collector:4317"),
        "read_database_url": ("postgresql://replica/db", "postgresql://replica/db"),
        "redis_url": ("rediss://:p@cache:6379/2", "rediss://:p@cache:6379/2"),
        "token_escrow_key": ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", bytes(range(32))),
    }
    if name in {"trusted_proxies", "admin_ip_allowlist"}:
        found = config.load(DATABASE | {variable(name): "10.0.0.0/8, ::1"})
        assert [str(network) for network in getattr(found, name)] == ["10.0.0.0/8", "::1/128"]
        return
    text, value = kinds.get(name) or GOOD[HINTS[name]]

    assert getattr(config.load(DATABASE | {variable(name): text}), name) == value


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_used(name: str) -> None:
    """A variable that changes nothing misleads."""
    assert name in read_of_settings()


@cache
def read_of_settings() -> set[str]:
    """What the server's code reads of anything that is called a config."""
    root = Path(spotplane_server.__path__[0])
    return {
        node.attr
        for path in root.rglob("*.py")
        if path.name != "config.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and "config" in ast.unparse(node.value)
    }


def test_everything_wrong_is_said_at_once_by_its_variable() -> None:
    """Also what is missing."""
    wrong = {variable(name): BAD[HINTS[name]] for name in FIELDS if HINTS[name] in BAD}
    wrong |= {"SPOTPLANE_LOG_LEVEL": "loud", "SPOTPLANE_TRUSTED_PROXIES": "10.0.0.0/33"}

    with pytest.raises(ConfigError) as caught:
        config.load(wrong)

    said = str(caught.value).splitlines()
    assert {line.split(":")[0].split()[0] for line in said} == {*wrong, "SPOTPLANE_DATABASE_URL"}
    assert len(said) == len(wrong) + 1


@pytest.mark.parametrize(
    "name", [name for name in FIELDS if HINTS[name] is int and name not in SIGNED]
)
def test_no_number_is_negative(name: str) -> None:
    """Said by name, before it does harm."""
    with pytest.raises(ConfigError, match=variable(name)):
        config.load(DATABASE | {variable(name): "-1"})


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_signed_number_may_be_negative(name: str) -> None:
    assert getattr(config.load(DATABASE | {variable(name): "-1"}), name) == -1


@pytest.mark.parametrize(
    "url", ["cache:6379", "http://cache", "redis://", "redis://cache:0", "redis://cache/x", "unix:"]
)
def test_an_address_of_redis_is_checked_at_the_start(url: str) -> None:
    """Not at the first call that needs it."""
    with pytest.raises(ConfigError, match="SPOTPLANE_REDIS_URL: must"):
        config.load(DATABASE | {"SPOTPLANE_REDIS_URL": url})


def test_an_address_of_a_replica_is_checked_at_the_start() -> None:
    """It may be away for long, so nothing else would tell."""
    with pytest.raises(ConfigError, match="SPOTPLANE_READ_DATABASE_URL: must"):
        config.load(DATABASE | {"SPOTPLANE_READ_DATABASE_URL": "replica:5432"})


def test_a_setting_may_be_read_from_a_file(tmp_path: Path) -> None:
    """Secrets need not be in the environment; the line's end does not count."""
    file = tmp_path / "token"
    file.write_text("from a file\n", encoding="utf-8")

    found = config.load(DATABASE | {"SPOTPLANE_ADMIN_TOKEN_FILE": str(file)})

    assert found.admin_token == "from a file"


def test_a_file_that_is_missing_is_said_by_its_variable(tmp_path: Path) -> None:
    """With the other faults."""
    missing = {"SPOTPLANE_DATABASE_URL_FILE": str(tmp_path / "none"), "SPOTPLANE_PORT": "x"}

    with pytest.raises(ConfigError) as caught:
        config.load(missing)

    assert "SPOTPLANE_DATABASE_URL" in str(caught.value)
    assert "SPOTPLANE_PORT" in str(caught.value)
