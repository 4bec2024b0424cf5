"""Real provisioners: what is launched is launched once, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from spotplane.v1 import node_pb2 as pb
from spotplane_agents.providers.ec2 import Ec2Provider, Ec2Settings
from spotplane_agents.provisioner import Machines, Provisioner
from spotplane_agents.provisioner.machines import ProviderMachines
from spotplane_agents.provisioner.simulated import Pace, SimulatedMachines

from tests.nodes.world import Nodes
from tests.support.clock import FakeClock
from tests.support.command import COMMAND, environment
from tests.support.eventually import eventually
from tests.support.plane import ADMIN, ADMIN_TOKEN

REGION = "us-east-1"


@asynccontextmanager
async def _process(nodes: Nodes, directory: Path, *options: str) -> AsyncIterator[Any]:
    """A provisioner of the simulated cloud in `directory`, as its operator starts it."""
    settings = {"SPOTPLANE_TARGET": nodes.plane.target, "SPOTPLANE_ADMIN_TOKEN": ADMIN_TOKEN}
    where = ("--provider", "simulated", "--state-dir", str(directory))
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "provisioner", *where, *options, env=environment(settings)
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _working(nodes: Nodes, machines: Machines) -> AsyncIterator[None]:
    """A provisioner of this process."""
    worker = Provisioner(
        nodes.plane.channel, ADMIN_TOKEN, machines, ["aws"], "test", look_seconds=0.05
    )
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _machines(directory: Path) -> list[Path]:
    return list(directory.glob("*.json"))


async def test_a_launch_cut_off_by_kill_9_is_finished_by_the_next_and_ended_by_it(
    nodes: Nodes, clock: FakeClock, tmp_path: Path
) -> None:
    """The machine was ordered, and nobody had been told: it is found again, not ordered again."""
    made = await nodes.launch()
    async with _process(nodes, tmp_path, "--launch-seconds", "600") as first:
        await eventually(lambda: _machines(tmp_path), within=40)
        first.kill()
        await first.wait()
    assert (await nodes.job(made.job_id)).stage == "provisioning"
    clock.advance(timedelta(seconds=31))

    async def has(status: str) -> bool:
        return await nodes.status(made.cluster_name) == status

    pace = Pace(launch=0, boot=0.05, load=0.05)
    cloud = SimulatedMachines(tmp_path, nodes.plane.channel, ADMIN, pace)
    async with cloud, _working(nodes, cloud):
        await eventually(lambda: has("active"), within=40)
        job = await nodes.job(made.job_id)
        assert job.status == "active"
        assert len(_machines(tmp_path)) == 1
        await nodes.terminate(made.cluster_name)
        await eventually(lambda: has("dead"), within=40)

    [machine] = _machines(tmp_path)
    assert '"state": "terminated"' in machine.read_text()
    assert [line for line in await nodes.logs(made.node_id) if line.endswith("was ended")]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """EC2 by moto."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


async def test_ec2_machines_are_launched_found_and_ended(nodes: Nodes, endpoint: str) -> None:
    """Tags tell the machine what it is to be; the node that registers ends the launch."""
    client: Any = boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    machines = ProviderMachines(lambda _region: Ec2Provider(client, Ec2Settings(image)))
    made = await nodes.launch(use_spot=True)

    async def stage(wanted: str) -> bool:
        return (await nodes.job(made.job_id)).stage == wanted

    async def status(wanted: str) -> bool:
        return await nodes.status(made.cluster_name) == wanted

    def instances() -> list[Any]:
        found = client.describe_instances(
            Filters=[{"Name": "tag:spotplane:launch", "Values": [made.job_id]}]
        )
        return [i for r in found["Reservations"] for i in r["Instances"]]

    async with _working(nodes, machines):
        await eventually(lambda: stage("installing"), within=40)
        [instance] = await asyncio.to_thread(instances)
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert tags["spotplane:node"] == made.cluster_name
        assert (instance["InstanceType"], instance["InstanceLifecycle"]) == ("g5.xlarge", "spot")
        await nodes.register(made.cluster_name)
        assert (await nodes.job(made.job_id)).status == "active"

        await nodes.stub.DeregisterNode(pb.DeregisterNodeRequest(id=made.node_id), metadata=ADMIN)

        await eventually(lambda: status("dead"), within=40)
        [instance] = await asyncio.to_thread(instances)
        assert instance["State"]["Name"] in ("shutting-down", "terminated")
