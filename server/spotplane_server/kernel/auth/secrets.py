"""Secrets: random, prefixed, checksummed, and stored as hashes only."""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_LENGTH: Final = 32
CHECKSUM_LENGTH: Final = 6

ADMIN_LABEL: Final = "admin"
AGENT_LABEL: Final = "agent"

_FORM: Final = re.compile(r"sp_([a-z0-9]{2,16})_([0-9A-Za-z]{32})_([0-9A-Za-z]{6})")


@dataclass(frozen=True, slots=True)
class Issued:
    """A fresh secret: shown once, stored as ``hash``."""

    secret: str
    hash: bytes
    prefix: str


def issue(label: str) -> Issued:
    """Make a secret ``sp_<label>_<32 base62>_<6 checksum>`` of about 190 random bits."""
    body = "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))
    stem = f"sp_{label}_{body}"
    secret = f"{stem}_{checksum(stem)}"
    return Issued(secret, hash_of(secret), prefix_of(secret))


def checksum(stem: str) -> str:
    """CRC32 of all before the last underscore, base62, left-padded to 6 characters."""
    rest, digits = zlib.crc32(stem.encode()), ""
    while rest:
        rest, digit = divmod(rest, 62)
        digits = ALPHABET[digit] + digits
    return digits.rjust(CHECKSUM_LENGTH, "0")


def hash_of(secret: str) -> bytes:
    """SHA-256; the secret is random, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).digest()


def prefix_of(secret: str) -> str:
    """The first 12 characters, which may be shown and logged."""
    return secret[:12]


def label_of(secret: str) -> str | None:
    """Label of a well-formed secret; ``""`` for a foreign format, None when ours is damaged."""
    if not secret.startswith("sp_"):
        return ""
    match = _FORM.fullmatch(secret)
    if match is None or checksum(secret.rpartition("_")[0]) != match[3]:
        return None
    return match[1]
