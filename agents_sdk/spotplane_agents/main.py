"""Implementation of ``spotplane agent``: builds and runs an agent from options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal
from uuid import uuid4

from spotplane_agents.agent import Agent, stopped_by_sigterm
from spotplane_agents.errors import AgentError, MetadataUnavailable
from spotplane_agents.identity import Identity
from spotplane_agents.imds import DEFAULT_ENDPOINT, Imds, ImdsNoticeSource
from spotplane_agents.providers import Provider

DEFAULT_SERVER: Final = "127.0.0.1:50051"


@dataclass(frozen=True)
class AgentOptions:
    """Options of ``spotplane agent``."""

    api_key: str = field(repr=False)
    server: str = DEFAULT_SERVER
    tls: bool = False
    root_certificates: Path | None = None
    logical_agent_id: str | None = None
    """Default: the instance's tag, else its id."""
    state_dir: Path | None = None
    provider: Literal["ec2", "simulated"] = "ec2"
    notices: Literal["imds", "none"] = "imds"
    imds_endpoint: str = DEFAULT_ENDPOINT
    image_id: str | None = None
    """Image of the instances that are launched; default the own."""
    instance_type: str = "g5.xlarge"
    """Of the simulated instance, like the two below."""
    region: str = "us-east-1"
    az: str = "us-east-1a"


def api_key_from(environment: Mapping[str, str]) -> str:
    """Read ``SPOTPLANE_API_KEY``, or the file that ``SPOTPLANE_API_KEY_FILE`` names.

    Raises:
        ValueError: Neither is set, both are, or the file cannot be read or is empty.
    """
    key = environment.get("SPOTPLANE_API_KEY", "")
    path = environment.get("SPOTPLANE_API_KEY_FILE", "")
    if key and path:
        raise ValueError("set SPOTPLANE_API_KEY or SPOTPLANE_API_KEY_FILE, not both")
    if path:
        try:
            key = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(f"SPOTPLANE_API_KEY_FILE: {error.strerror}") from error
    if not key:
        raise ValueError("SPOTPLANE_API_KEY or SPOTPLANE_API_KEY_FILE is needed")
    return key


async def run_agent(options: AgentOptions) -> None:
    """Run an agent until SIGTERM or a permanent error.

    Raises:
        MetadataUnavailable: The provider is ``ec2`` and this is no EC2 instance.
        AgentError: The agent ended by itself; see ``Agent.run``.
        OSError: The root certificates cannot be read.
    """
    if options.provider == "simulated":
        await _run_simulated(options)
        return
    imds = Imds(options.imds_endpoint)
    identity = await imds.identity(options.logical_agent_id)
    agent = Agent(
        server=options.server,
        api_key=options.api_key,
        identity=identity,
        provider=_ec2(options, identity),
        notices=ImdsNoticeSource(imds) if options.notices == "imds" else None,
        state_dir=options.state_dir,
        tls=options.tls,
        root_certificates=_roots(options),
    )
    await agent.run()


def _ec2(options: AgentOptions, identity: Identity) -> Provider:
    try:
        from spotplane_agents.providers.ec2 import Ec2Provider, Ec2Settings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise AgentError("the provider ec2 needs: pip install 'spotplane[aws]'") from error
    image_id = options.image_id or identity.image_id
    if image_id is None:
        raise MetadataUnavailable("the image of this instance is not known; name one")
    return Ec2Provider.connect(identity.region, Ec2Settings(image_id))


async def _run_simulated(options: AgentOptions) -> None:
    """Run one simulated instance; instances that it launches run in this process too."""
    from spotplane_agents.providers.simulated import Service, SimulatedCloud  # noqa: PLC0415

    name = options.logical_agent_id or f"simulated-{uuid4().hex[:8]}"
    service = Service(
        name,
        options.server,
        options.api_key,
        connection={"tls": options.tls, "root_certificates": _roots(options)},
    )
    with TemporaryDirectory() as temporary:
        async with SimulatedCloud(options.state_dir or Path(temporary)) as cloud:
            cloud.start(
                service,
                instance_type=options.instance_type,
                region=options.region,
                az=options.az,
            )
            async with stopped_by_sigterm(cloud.stop):
                await cloud.ended()


def _roots(options: AgentOptions) -> bytes | None:
    return options.root_certificates.read_bytes() if options.root_certificates else None
