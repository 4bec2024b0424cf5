"""EC2 as a provider, against moto's server over HTTP."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from spotplane_agents import LaunchSpec, ProviderError
from spotplane_agents.providers.ec2 import Ec2Provider, Ec2Settings

REGION = "us-east-1"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def connect(endpoint: str) -> Any:
    return boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


@pytest.fixture
def provider(endpoint: str) -> Ec2Provider:
    client = connect(endpoint)
    image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    return Ec2Provider(client, Ec2Settings(image))


def spec(token: str, **fields: str) -> LaunchSpec:
    mode = fields.get("mode", "spot")
    assert mode in {"spot", "ondemand"}
    return LaunchSpec(
        instance_type="g5.xlarge",
        region=REGION,
        az=fields.get("az", "us-east-1b"),
        mode="spot" if mode == "spot" else "ondemand",
        client_token=token,
        logical_agent_id="chat",
        replica_id="rep-1",
    )


async def test_spot_instance_is_launched_where_it_was_ordered(provider: Ec2Provider) -> None:
    instance_id = await provider.launch(spec("launch-1"))

    view = await provider.describe(instance_id)

    assert view is not None
    assert (view.instance_type, view.az, view.mode) == ("g5.xlarge", "us-east-1b", "spot")
    assert view.state in {"pending", "running"}
    assert view.tags["spotplane:agent"] == "chat"
    assert view.tags["spotplane:replica-id"] == "rep-1"


async def test_on_demand_instance_is_no_spot_instance(provider: Ec2Provider) -> None:
    """The rescue of last resort cannot be taken back by the market."""
    view = await provider.describe(await provider.launch(spec("launch-2", mode="ondemand")))

    assert view is not None
    assert view.mode == "ondemand"


async def test_terminated_instance_may_be_terminated_again(provider: Ec2Provider) -> None:
    """Commands are delivered at least once."""
    instance_id = await provider.launch(spec("launch-3"))
    await provider.terminate(instance_id)
    await provider.terminate(instance_id)

    view = await provider.describe(instance_id)

    assert view is not None
    assert view.state in {"stopping", "terminated"}


async def test_unknown_instance_is_gone_already(provider: Ec2Provider) -> None:
    """EC2 forgets instances after an hour."""
    await provider.terminate("i-0123456789abcdef0")

    assert await provider.describe("i-0123456789abcdef0") is None


async def test_rejection_by_the_cloud_has_a_reason(endpoint: str) -> None:
    """The message ends up in the command's result."""
    settings = Ec2Settings("ami-1", subnets={"us-east-1b": "subnet-0dead"})
    wrong = Ec2Provider(connect(endpoint), settings)

    with pytest.raises(ProviderError, match="subnet-0dead"):
        await wrong.launch(spec("launch-4"))
