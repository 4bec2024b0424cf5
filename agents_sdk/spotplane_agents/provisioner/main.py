"""Implementation of ``spotplane provisioner``."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import grpc
import grpc.aio

from spotplane_agents.errors import AgentError
from spotplane_agents.provisioner.machines import Machines, ProviderMachines
from spotplane_agents.provisioner.simulated import Pace, SimulatedMachines
from spotplane_agents.provisioner.worker import Provisioner

SIMULATED: Final = ("aws", "azure", "gcp", "oci")
CHANNEL_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


@dataclass(frozen=True)
class ProvisionerOptions:
    """Options of ``spotplane provisioner``."""

    token: str = field(repr=False)
    server: str
    provider: Literal["ec2", "simulated"]
    tls: bool = False
    root_certificates: Path | None = None
    state_dir: Path = Path(".spotplane/machines")
    """Of the simulated cloud."""
    api_key: str | None = field(default=None, repr=False)
    """What simulated nodes call with; default the token."""
    pace: Pace = field(default_factory=Pace)
    """Of the simulated cloud."""
    image_id: str | None = None
    """Of EC2, like those below."""
    subnet: str | None = None
    security_groups: Sequence[str] = ()
    instance_profile: str | None = None
    key_name: str | None = None
    user_data: Path | None = None
    endpoint_url: str | None = None


def token_from(environment: Mapping[str, str]) -> str:
    """Read ``SPOTPLANE_ADMIN_TOKEN``, or the file that ``SPOTPLANE_ADMIN_TOKEN_FILE`` names.

    Raises:
        ValueError: Neither is set, or the file cannot be read or is empty.
    """
    path = environment.get("SPOTPLANE_ADMIN_TOKEN_FILE", "")
    token = environment.get("SPOTPLANE_ADMIN_TOKEN", "")
    if path:
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(f"SPOTPLANE_ADMIN_TOKEN_FILE: {error.strerror}") from error
    if not token:
        raise ValueError("SPOTPLANE_ADMIN_TOKEN or SPOTPLANE_ADMIN_TOKEN_FILE is needed")
    return token


async def run_provisioner(options: ProvisionerOptions) -> None:
    """Execute the server's operations until SIGTERM or SIGINT.

    Raises:
        AgentError: The provider lacks a setting.
        OSError: A file cannot be read.
    """
    async with _channel(options) as channel, _machines(options, channel) as machines:
        provisioner = Provisioner(
            channel,
            options.token,
            machines,
            SIMULATED if options.provider == "simulated" else ("aws",),
            f"{socket.gethostname()}:{os.getpid()}",
        )
        work = asyncio.ensure_future(provisioner.run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, work.cancel)
        await asyncio.gather(work, return_exceptions=True)
        if not work.cancelled():
            await work


def _channel(options: ProvisionerOptions) -> grpc.aio.Channel:
    if not options.tls and options.root_certificates is None:
        return grpc.aio.insecure_channel(options.server, CHANNEL_OPTIONS)
    roots = options.root_certificates.read_bytes() if options.root_certificates else None
    credentials = grpc.ssl_channel_credentials(roots)
    return grpc.aio.secure_channel(options.server, credentials, CHANNEL_OPTIONS)


@asynccontextmanager
async def _machines(
    options: ProvisionerOptions, channel: grpc.aio.Channel
) -> AsyncIterator[Machines]:
    if options.provider == "ec2":
        yield _ec2(options)
        return
    metadata = (("x-admin-token", options.token),)
    if options.api_key is not None:
        metadata = (("authorization", f"Bearer {options.api_key}"),)
    async with SimulatedMachines(options.state_dir, channel, metadata, options.pace) as machines:
        yield machines


def _ec2(options: ProvisionerOptions) -> Machines:
    try:
        from spotplane_agents.providers.ec2 import Ec2Provider, Ec2Settings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise AgentError("the provider ec2 needs: pip install 'spotplane[aws]'") from error
    if options.image_id is None:
        raise AgentError("the provider ec2 needs an image")
    settings = Ec2Settings(
        options.image_id,
        subnets={"": options.subnet} if options.subnet else {},
        security_group_ids=tuple(options.security_groups),
        instance_profile=options.instance_profile,
        key_name=options.key_name,
        user_data=options.user_data.read_text(encoding="utf-8") if options.user_data else "",
    )
    return ProviderMachines(
        lambda region: Ec2Provider.connect(region, settings, endpoint_url=options.endpoint_url)
    )
