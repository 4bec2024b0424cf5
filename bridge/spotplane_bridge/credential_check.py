"""Verifies the credential of a request before a large body is read."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import Final

import grpc.aio
from spotplane.v1 import caller_pb2

from spotplane_bridge import errors
from spotplane_bridge.headers import Metadata
from spotplane_bridge.upstream import Upstream

# Time for which a verified credential may send large bodies without being verified again. The
# call that the body belongs to authenticates anew, so a credential that is revoked within these
# seconds can make this process read bodies and cannot have any effect. Without it, every upload
# would use two of the credential's requests per minute.
CACHE_SECONDS: Final = 10.0
# Entries of 32 bytes and a timestamp each.
_MAX_CACHED: Final = 10_000
_TIMEOUT_SECONDS: Final = 5.0
_CREDENTIALS: Final = frozenset(
    {"authorization", "x-admin-token", "x-client-token", "x-spotplane-ticket", "x-forwarded-for"}
)
# The server authenticated the caller but does not permit it the verifying RPC; the call itself
# decides its permission later.
_AUTHENTICATED: Final = frozenset({"ROLE_FORBIDDEN", "SCOPE_FORBIDDEN"})


class CallerVerifier:
    """Verifies credentials at the server and caches success for a few seconds.

    Failures are not cached, so that the server counts and throttles every one of them.

    Args:
        upstream: The server.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._call = upstream.unary(
            "/spotplane.v1.CallerService/ValidateCaller",
            caller_pb2.ValidateCallerRequest,
            caller_pb2.ValidateCallerResponse,
            idempotent=True,
        )
        self._verified: OrderedDict[bytes, float] = OrderedDict()

    async def verify(self, metadata: Metadata) -> bytes:
        """Verify the credential that a call would carry.

        Returns:
            An identity of the credential and its address, which does not contain the credential.

        Raises:
            Failure: The credential is missing, invalid or may not call now.
        """
        identity = identity_of(metadata)
        if self._verified.get(identity, 0.0) > time.monotonic():
            return identity
        try:
            await self._call(
                caller_pb2.ValidateCallerRequest(),
                # The idempotency key belongs to the call that follows.
                metadata=tuple(m for m in metadata if "idempotency" not in m[0]),
                timeout=_TIMEOUT_SECONDS,
            )
        except grpc.aio.AioRpcError as err:
            failure = errors.from_rpc(err)
            if failure.code not in _AUTHENTICATED:
                raise failure from err
        self._verified[identity] = time.monotonic() + CACHE_SECONDS
        self._verified.move_to_end(identity)
        if len(self._verified) > _MAX_CACHED:
            self._verified.popitem(last=False)
        return identity


def identity_of(metadata: Metadata) -> bytes:
    """Return a digest of the credentials and the address in a call's metadata."""
    digest = hashlib.sha256()
    for key, value in sorted(pair for pair in metadata if pair[0] in _CREDENTIALS):
        digest.update(f"{key}={value}\n".encode())
    return digest.digest()
