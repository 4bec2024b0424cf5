"""The processes of an installation: server, bridge, agent, and the migration before them."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from spotplane_server.cli.failures import MISUSED, fail, needs

if TYPE_CHECKING:
    from spotplane_server.config import ServerConfig


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """Settings of commands that work on the database itself."""

    database_url: str


def server(
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
    parent: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Run the gRPC server: every service, the agent streams and the background jobs.

    Settings come from SPOTPLANE_*; SPOTPLANE_DATABASE_URL is required. With several workers a
    fixed SPOTPLANE_ADMIN_PORT is the first one's, and the others take the next ones.
    """
    try:
        from spotplane_server.cli import workers as supervision
        from spotplane_server.kernel import logs
    except ModuleNotFoundError as err:
        needs("server", err)
    config = _server_config()
    if workers > 1:
        if config.port == 0:
            fail("SPOTPLANE_PORT: 0 is a free port of one process; name one", status=MISUSED)
        logs.configure(config.log_level, json=config.log_json)
        _log_unknown_settings()
        raise typer.Exit(supervision.run(workers, config.admin_port))
    if parent:
        supervision.die_with(parent)
    logs.configure(config.log_level, json=config.log_json)
    if not parent:
        _log_unknown_settings()
    from spotplane_server.app import serve

    _run(serve(config))


def bridge() -> None:
    """Run the REST bridge. Settings come from SPOTPLANE_*, SPOTPLANE_GRPC_TARGET among them."""
    try:
        from spotplane_bridge import logs
        from spotplane_bridge.app import run
        from spotplane_bridge.config import BridgeConfig, ConfigError
    except ModuleNotFoundError as err:
        needs("bridge", err)
    try:
        config = BridgeConfig.from_env(os.environ)
    except ConfigError as err:
        fail(*err.problems, status=MISUSED)
    logs.configure(config.log_level)
    _log_unknown_settings()
    try:
        run(config)
    except OSError as err:
        fail(str(err))


def migrate() -> None:
    """Bring the database to this version; refuse one that is newer.

    SPOTPLANE_DATABASE_URL names a login that owns the schema. Any number may run at once.
    """
    import asyncio

    url = database_url()
    from asyncpg import PostgresError

    from spotplane_server.kernel import logs
    from spotplane_server.kernel.db import migrate as migration
    from spotplane_server.kernel.db.connections import DatabaseTooOld

    logs.configure("WARNING", json=False)
    try:
        applied = asyncio.run(migration.migrate(url))
    except (migration.MigrationRefused, DatabaseTooOld) as err:
        fail(str(err))
    except (OSError, PostgresError) as err:
        _no_database(err)
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to do")


def agent(
    server: Annotated[
        str, typer.Option(envvar="SPOTPLANE_SERVER", help="The plane's gRPC door.")
    ] = "127.0.0.1:50051",
    tls: Annotated[bool, typer.Option(help="Speak TLS.")] = False,
    roots: Annotated[Path | None, typer.Option(help="PEM certificates to trust.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name to register under; default the instance's.")
    ] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where reports wait on disk.")] = None,
    provider: Annotated[str, typer.Option(help="ec2 or simulated.")] = "ec2",
    imds: Annotated[
        str | None, typer.Option(help="Metadata service, when it is not EC2's own.")
    ] = None,
    notices: Annotated[bool, typer.Option(help="Watch for interruption notices.")] = True,
    image: Annotated[str | None, typer.Option(help="Image of instances to launch.")] = None,
    instance_type: Annotated[str, typer.Option(help="Of a simulated instance.")] = "g5.xlarge",
    region: Annotated[str, typer.Option(help="Of a simulated instance.")] = "us-east-1",
    az: Annotated[str, typer.Option(help="Of a simulated instance.")] = "us-east-1a",
) -> None:
    """Run the agent of this instance, with the key in SPOTPLANE_API_KEY or …_FILE."""
    import asyncio
    import logging

    from spotplane_agents.errors import AgentError
    from spotplane_agents.imds import DEFAULT_ENDPOINT
    from spotplane_agents.main import AgentOptions, api_key_from, run_agent

    if provider not in {"ec2", "simulated"}:
        fail("--provider is ec2 or simulated", status=MISUSED)
    try:
        key = api_key_from(os.environ)
    except ValueError as err:
        fail(str(err), status=MISUSED)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options: dict[str, Any] = {"provider": provider, "notices": "imds" if notices else "none"}
    try:
        asyncio.run(
            run_agent(
                AgentOptions(
                    key,
                    server,
                    tls=tls,
                    root_certificates=roots,
                    logical_agent_id=name,
                    state_dir=state_dir,
                    imds_endpoint=imds or DEFAULT_ENDPOINT,
                    image_id=image,
                    instance_type=instance_type,
                    region=region,
                    az=az,
                    **options,
                )
            )
        )
    except (AgentError, OSError) as err:
        fail(str(err))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def database_url() -> str:
    """Read SPOTPLANE_DATABASE_URL, or end saying that it is missing."""
    try:
        from spotplane_server import config
    except ModuleNotFoundError as err:
        needs("server", err)
    try:
        return config.read(DatabaseConfig, os.environ).database_url
    except config.ConfigError as err:
        fail(*str(err).splitlines(), status=MISUSED)


def _log_unknown_settings() -> None:
    import structlog

    from spotplane_server.cli import environment

    log = structlog.get_logger(__name__)
    for unknown in environment.find_unknown(os.environ):
        log.warning("unknown_setting", setting=unknown.name, suggestion=unknown.suggestion)


def _server_config() -> ServerConfig:
    from spotplane_server import config

    try:
        return config.load()
    except config.ConfigError as err:
        fail(*str(err).splitlines(), status=MISUSED)


def _run(serving: Coroutine[Any, Any, None]) -> None:
    import uvloop
    from asyncpg import PostgresError

    from spotplane_server.kernel.db.connections import DatabaseTooOld

    try:
        uvloop.run(serving)
    except DatabaseTooOld as err:
        fail(str(err))
    except (OSError, RuntimeError, PostgresError) as err:
        _no_database(err)


def _no_database(err: Exception) -> NoReturn:
    # A connection's text never holds the URL, which may carry a password.
    fail(f"{type(err).__name__}: {err}" if str(err) else type(err).__name__)
