"""Clients of the legacy API: a tenant with one client token."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from spotplane_server import audit, events
from spotplane_server.kernel import request_context
from spotplane_server.kernel.auth.encryption import SecretBox
from spotplane_server.kernel.db.database import Conn
from spotplane_server.tenants import clients_store, errors, key_lifecycle, keys_store, rules, store
from spotplane_server.tenants.key_lifecycle import IssuedKey
from spotplane_server.tenants.store import Tenant, TenantDraft

KEY_NAME: Final = "client token"


async def insert(conn: Conn, name: str, email: str | None, *, now: datetime) -> Tenant:
    """Create a tenant with a unique name.

    Args:
        conn: In a transaction over all tenants.
        name: 1 to 255 characters.
        email: The tenant's address; None for a generated unique one.
        now: When.

    Raises:
        ClientExists, EmailTaken: The name or the address is taken.
    """
    if not await clients_store.is_name_free(conn, name):
        raise errors.ClientExists(name)
    if email is not None:
        return await store.insert_tenant(conn, _draft(name, email), now=now)
    for number in itertools.count(1):
        made_up = _draft(name, rules.placeholder_email(name, number))
        tenant = await store.try_insert_tenant(conn, made_up, now=now)
        if tenant is not None:
            return tenant
    raise AssertionError("there are as many addresses as numbers")


async def issue_token(
    conn: Conn, tenant_id: UUID, *, rpm: int, concurrency: int, box: SecretBox | None, now: datetime
) -> IssuedKey:
    """Create the first client token of a tenant."""
    draft = keys_store.Draft(
        KEY_NAME, None, "admin", rpm, None, concurrency, None, is_client_token=True
    )
    issued = await key_lifecycle.create(conn, tenant_id, None, draft, now=now)
    await store_encrypted_copy(conn, tenant_id, issued, box, now=now)
    return issued


async def rotate_token(
    conn: Conn, tenant_id: UUID, *, grace_seconds: int, box: SecretBox | None, now: datetime
) -> IssuedKey | None:
    """Replace a tenant's client token; return None if there is no valid one.

    Raises:
        TenantNotActive, KeyNotActive: The tenant or the key is not active.
    """
    current = await clients_store.find_client_key(conn, tenant_id, now=now)
    locked = current and await keys_store.lock_key(conn, current.id, tenant_id)
    if not locked:
        return None
    key, tenant_status = locked
    rules.check_can_hold_keys(tenant_status)
    rotation = await key_lifecycle.rotate(
        conn, key, expires_at=None, grace_seconds=grace_seconds, now=now, is_client_token=True
    )
    await store_encrypted_copy(conn, tenant_id, rotation.successor, box, now=now)
    return rotation.successor


async def store_encrypted_copy(
    conn: Conn, tenant_id: UUID, issued: IssuedKey, box: SecretBox | None, *, now: datetime
) -> None:
    """Store an encrypted copy of a token, if copies are enabled."""
    if box is not None:
        sealed = box.seal(issued.secret.encode(), issued.key.id.bytes)
        await clients_store.insert_copy(conn, tenant_id, issued.key.id, sealed, now=now)


async def reveal(
    conn: Conn, tenant_id: UUID, *, box: SecretBox | None, now: datetime
) -> tuple[str, bool]:
    """Return a tenant's client token and whether it is masked.

    Raises:
        ClientTokenNotFound: There is no valid token.
    """
    found = await clients_store.find_client_key(conn, tenant_id, now=now)
    found = found or await clients_store.find_similar_key(conn, tenant_id, now=now)
    if found is None:
        raise errors.ClientTokenNotFound(tenant_id)
    sealed = None if box is None else await clients_store.find_copy(conn, tenant_id, found.id)
    plain = None if box is None or sealed is None else box.open(sealed, found.id.bytes)
    if plain is None:
        return rules.mask_secret(found.key_prefix, found.key_suffix), True
    await append_event(conn, tenant_id, "token.revealed", {"key_id": str(found.id)}, now=now)
    change = audit.Change("api_key.reveal", "api_key", str(found.id), tenant_id)
    await audit.record(conn, request_context.current(), change, now)
    return plain.decode(), False


async def append_event(
    conn: Conn, tenant_id: UUID, kind: str, data: dict[str, Any], *, now: datetime
) -> None:
    """Append an event of a client."""
    await events.append(conn, events.Event(kind, str(tenant_id), data, tenant_id), now)


def _draft(name: str, email: str) -> TenantDraft:
    return TenantDraft(uuid4(), name, email, rules.DEFAULT_TIER, {}, {})
