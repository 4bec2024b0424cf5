"""The process that launches and ends machines for nodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from spotplane_server.cli.failures import MISUSED, fail


def provisioner(
    server: Annotated[
        str, typer.Option(envvar="SPOTPLANE_TARGET", help="The plane's gRPC door.")
    ] = "127.0.0.1:50051",
    tls: Annotated[bool, typer.Option(help="Speak TLS.")] = False,
    roots: Annotated[Path | None, typer.Option(help="PEM certificates to trust.")] = None,
    provider: Annotated[str, typer.Option(help="ec2 or simulated.")] = "ec2",
    state_dir: Annotated[
        Path, typer.Option(help="Where the simulated cloud keeps its machines.")
    ] = Path(".spotplane/machines"),
    launch_seconds: Annotated[
        float, typer.Option(min=0, help="Until the simulated cloud answers an order.")
    ] = 0.5,
    boot_seconds: Annotated[float, typer.Option(min=0, help="Of a simulated machine.")] = 1.0,
    load_seconds: Annotated[float, typer.Option(min=0, help="Of a simulated model.")] = 2.0,
    image: Annotated[str | None, typer.Option(help="Image of the machines.")] = None,
    subnet: Annotated[str | None, typer.Option(help="Default the account's own.")] = None,
    security_group: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    instance_profile: Annotated[str | None, typer.Option(help="Role of the machines.")] = None,
    key_name: Annotated[str | None, typer.Option(help="Key pair of the machines.")] = None,
    user_data: Annotated[Path | None, typer.Option(help="File to start them with.")] = None,
    endpoint_url: Annotated[str | None, typer.Option(help="EC2's, when not its own.")] = None,
) -> None:
    """Launch and end machines for nodes, with SPOTPLANE_ADMIN_TOKEN or …_FILE.

    The credential needs the scope nodes:write. The plane has no credentials of any cloud; those of
    EC2 are the ones that boto3 finds here. SPOTPLANE_API_KEY, if set, is the key that simulated
    nodes call with.
    """
    import asyncio
    import logging

    from spotplane_agents.errors import AgentError
    from spotplane_agents.provisioner.main import (
        ProvisionerOptions,
        run_provisioner,
        token_from,
    )
    from spotplane_agents.provisioner.simulated import Pace

    if provider not in ("ec2", "simulated"):
        fail("--provider is ec2 or simulated", status=MISUSED)
    try:
        token = token_from(os.environ)
    except ValueError as err:
        fail(str(err), status=MISUSED)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = ProvisionerOptions(
        token,
        server,
        "ec2" if provider == "ec2" else "simulated",
        tls=tls,
        root_certificates=roots,
        state_dir=state_dir,
        api_key=os.environ.get("SPOTPLANE_API_KEY") or None,
        pace=Pace(launch_seconds, boot_seconds, load_seconds),
        image_id=image,
        subnet=subnet,
        security_groups=security_group or (),
        instance_profile=instance_profile,
        key_name=key_name,
        user_data=user_data,
        endpoint_url=endpoint_url,
    )
    try:
        asyncio.run(run_provisioner(options))
    except (AgentError, OSError) as err:
        fail(str(err))
