"""Encryption of stored secrets with AES-256-GCM."""

from __future__ import annotations

import hashlib
import hmac
from secrets import token_bytes
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class SecretBox:
    """Seals under one key of 32 bytes.

    Args:
        key: Random, or made by `derive_key`.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """Encrypt; only the same ``context`` opens it again, so a row cannot be put elsewhere."""
        nonce = token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes | None:
        """Decrypt; None when it was sealed under another key or for another context."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except InvalidTag:
            return None


def derive_key(secret: str, purpose: bytes) -> bytes:
    """A key that whoever has a random secret can make again, and nobody else."""
    return hmac.digest(secret.encode(), purpose, hashlib.sha256)
