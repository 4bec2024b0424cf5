"""Administrator credentials, kept in the database: the first one cannot come from the API."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from spotplane_server.cli import show
from spotplane_server.cli.admin.options import group
from spotplane_server.cli.failures import MISUSED, fail
from spotplane_server.cli.processes import database_url

if TYPE_CHECKING:
    from spotplane_server.kernel.auth.client_address import Network
    from spotplane_server.kernel.db.database import Database

app = group("Administrator credentials; works on the database itself.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the credential, and its actor name.")]


@app.command()
def create(
    context: typer.Context,
    name: Name,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="admin:read, admin:write, usage:write, export, nodes:write; repeat it."),
    ] = None,
    rpm: Annotated[int, typer.Option(min=1, help="Requests a minute.")] = 600,
    cidr: Annotated[
        list[str] | None,
        typer.Option(help="A network that it may be used from; repeat it. Default: anywhere."),
    ] = None,
    expires_at: Annotated[str | None, typer.Option(help="RFC 3339. Default: never.")] = None,
) -> None:
    """Create a credential and print its token, now and never again; an existing one is replaced."""
    from spotplane_server.kernel.auth import secrets
    from spotplane_server.kernel.db import bootstrap

    scopes = tuple(scope or bootstrap.ALL_SCOPES)
    unknown = sorted(set(scopes) - set(bootstrap.ALL_SCOPES))
    if unknown:
        fail(f"no such scope: {', '.join(unknown)}", status=MISUSED)
    networks = [_network(text) for text in cidr or ()]
    issued = secrets.issue(secrets.ADMIN_LABEL)
    rules = _Rules(scopes, rpm, networks, None if expires_at is None else _instant(expires_at))
    asyncio.run(_put(context, name, issued.secret, rules))
    typer.echo(issued.secret)


@app.command("list")
def list_(context: typer.Context) -> None:
    """List credentials."""
    rows = asyncio.run(_list(context))
    show.table(("name", "scopes", "rpm", "from", "created", "expires", "revoked"), rows)


@app.command()
def revoke(context: typer.Context, name: Name) -> None:
    """Revoke a credential, at once and on every server."""
    if not asyncio.run(_revoke(context, name)):
        fail(f"there is no live credential {name!r}")
    typer.echo(f"revoked {name}")


@asynccontextmanager
async def database_of(context: typer.Context) -> AsyncIterator[Database]:
    """Open the database of SPOTPLANE_DATABASE_URL, else of `spotplane dev`."""
    from asyncpg import PostgresError

    from spotplane_server.cli.plane import dev_stack
    from spotplane_server.kernel.db.connections import DatabaseTooOld

    _target, data_dir, _tls = context.obj
    stack = dev_stack(data_dir)
    given = any(f"SPOTPLANE_DATABASE_URL{end}" in os.environ for end in ("", "_FILE"))
    url = stack["database_url"] if stack and not given else database_url()
    try:
        db = await _open(url)
        try:
            yield db
        finally:
            await db.close()
    except (OSError, PostgresError, DatabaseTooOld) as err:
        fail(f"the database cannot be used: {err}")


async def _open(url: str) -> Database:
    from asyncpg import InsufficientPrivilegeError

    from spotplane_server.kernel.db.database import Database

    try:
        return await Database.open(url, size=1)
    except InsufficientPrivilegeError:
        # The schema's owner, whom `spotplane migrate` needs, may be no member of the plain role.
        return await Database.open(url, size=1, role="none")


@dataclass(frozen=True)
class _Rules:
    """What a credential may do, how often, from where, and until when."""

    scopes: tuple[str, ...]
    rpm: int
    cidrs: list[Network]
    expires_at: datetime | None


async def _put(context: typer.Context, name: str, token: str, rules: _Rules) -> None:
    from spotplane_server import audit
    from spotplane_server.kernel.db import bootstrap
    from spotplane_server.kernel.db.database import ALL_TENANTS

    now = datetime.now(UTC)
    if rules.expires_at is not None and rules.expires_at <= now:
        fail("--expires-at is past", status=MISUSED)
    async with database_of(context) as db, db.transaction(ALL_TENANTS) as conn:
        await bootstrap.put_admin(
            conn,
            name,
            token,
            scopes=rules.scopes,
            rate_limit_rpm=rules.rpm,
            cidrs=rules.cidrs,
            expires_at=rules.expires_at,
            now=now,
        )
        change = audit.credential_put(name, rules.scopes, rules.rpm, rules.cidrs, rules.expires_at)
        await audit.record_own(conn, "console", change, now)


async def _list(context: typer.Context) -> list[tuple[str, ...]]:
    from spotplane_server.kernel.db import bootstrap
    from spotplane_server.kernel.db.database import ALL_TENANTS

    async with database_of(context) as db, db.connection(ALL_TENANTS) as conn:
        found = await bootstrap.list_admins(conn)
    return [
        (
            admin.name,
            ", ".join(admin.scopes),
            str(admin.rate_limit_rpm),
            ", ".join(admin.cidrs) or "anywhere",
            _shown(admin.created_at),
            _shown(admin.expires_at),
            _shown(admin.revoked_at),
        )
        for admin in found
    ]


async def _revoke(context: typer.Context, name: str) -> bool:
    from spotplane_server import audit
    from spotplane_server.kernel.db import bootstrap
    from spotplane_server.kernel.db.database import ALL_TENANTS

    now = datetime.now(UTC)
    async with database_of(context) as db, db.transaction(ALL_TENANTS) as conn:
        revoked = await bootstrap.revoke_admin(conn, name, now=now)
        if revoked:
            await audit.record_own(conn, "console", audit.credential_revoked(name), now)
    return revoked


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as err:
        fail(f"--cidr: {err}", status=MISUSED)


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as err:
        fail(f"--expires-at: {err}", status=MISUSED)
    if found.tzinfo is None:
        fail("--expires-at: needs a zone, as in 2027-01-31T00:00:00Z", status=MISUSED)
    return found


def _shown(instant: datetime | None) -> str:
    return instant.isoformat(" ", "seconds") if instant else ""
