"""Select the credential of a request and the metadata to forward.

The first source present decides; if its credential is invalid, the next one is not tried.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from spotplane_bridge.errors import Failure

# The error format that the caller expects; the server grants nothing for it.
LEGACY_ERROR_FORMAT: Final = ("x-spotplane-family", "fleet")
LONGEST: Final = 1024

_BEARER: Final = re.compile(r"[Bb]earer +(\S+)\s*")
_NOT_ASCII: Final = re.compile(r"[^\x21-\x7e]")
_BODY_MEMBERS: Final = ("client_token", "token")


@dataclass(frozen=True, slots=True)
class Credential:
    """One credential, as metadata of a call.

    Attributes:
        key: Name of the metadata.
        value: The credential, in ASCII.
    """

    key: str
    value: str


def credential_of(
    headers: Mapping[str, str], body: Mapping[str, Any], query: Mapping[str, str]
) -> Credential:
    """Return the credential that applies.

    The administrator's header has precedence and can only authenticate an administrator.

    Raises:
        Failure: 401, when there is none or the header is malformed.
    """
    if admin := headers.get("X-Admin-Token", "").strip():
        return _credential("x-admin-token", admin)
    authorization = headers.get("Authorization")
    if authorization is not None:
        match = _BEARER.fullmatch(authorization.strip())
        if match is None:
            raise Failure(
                401, "INVALID_AUTH_FORMAT", "the header must be `Authorization: Bearer <token>`"
            )
        return _bearer(match[1])
    if token := headers.get("X-Client-Token", "").strip():
        return _bearer(token)
    for name in _BODY_MEMBERS:
        member = body.get(name)
        if isinstance(member, str) and member.strip():
            return _bearer(member.strip())
    if ticket := query.get("ticket"):
        return _credential("x-spotplane-ticket", ticket)
    raise Failure(401, "API_KEY_MISSING", "Missing client token")


def _bearer(token: str) -> Credential:
    found = _credential("authorization", token)
    return Credential(found.key, f"Bearer {found.value}")


def _credential(key: str, value: str) -> Credential:
    # Text outside ASCII cannot be sent as metadata and is no valid credential either: it is sent
    # with those characters replaced, so that the server rejects it like any other invalid
    # credential.
    return Credential(key, _NOT_ASCII.sub("?", value[:LONGEST]))
