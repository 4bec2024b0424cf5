"""Claims to a tenant: a caller may say whose call it is; only what its credential says counts."""

from __future__ import annotations

from google.protobuf.message import Message

from spotplane_server.kernel import wire
from spotplane_server.kernel.calls import Caller, TenantId
from spotplane_server.kernel.errors import Forbidden


class TenantMismatch(Forbidden):
    """The request claims a tenant other than the caller's."""

    reason = "TENANT_MISMATCH"


def tenant(caller: Caller, request: Message) -> TenantId | None:
    """The tenant that a call is about: the caller's, or for administrators the claimed one, if any.

    Raises:
        Invalid: `tenant_id` is no UUID. TenantMismatch: It is not the caller's.
    """
    claim = wire.optional_uuid(request, "tenant_id", "tenant ID")
    if caller.tenant_id is None:
        return None if claim is None else TenantId(claim)
    if claim is not None and claim != caller.tenant_id:
        raise TenantMismatch("tenant_id is not the caller's tenant")
    return caller.tenant_id


def required_tenant(caller: Caller, request: Message) -> TenantId:
    """The same, where administrators must claim one.

    Raises:
        Invalid: They did not. TenantMismatch: It is not the caller's.
    """
    found = tenant(caller, request)
    if found is None:
        raise wire.missing("tenant_id")
    return found
