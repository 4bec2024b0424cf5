"""Amazon EC2 as a provider. Needs the extra ``aws``."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from spotplane_agents.errors import ProviderError
from spotplane_agents.imds import AGENT_TAG, REPLICA_TAG
from spotplane_agents.providers import InstanceState, InstanceView, LaunchSpec

if TYPE_CHECKING:
    from types_boto3_ec2.client import EC2Client
    from types_boto3_ec2.type_defs import InstanceTypeDef

ResultT = TypeVar("ResultT")

STATES: Final[dict[str, InstanceState]] = {
    "pending": "pending",
    "running": "running",
    "shutting-down": "stopping",
    "stopping": "stopping",
    "stopped": "stopping",
    "terminated": "terminated",
}
LIVING: Final = ["pending", "running", "stopping", "stopped"]
# EC2 reserves tags that begin with `aws:`; its console shows `Name`.
NAME_TAG: Final = "Name"


@dataclass(frozen=True, slots=True)
class Ec2Settings:
    """Launch settings of every instance of a service."""

    image_id: str
    subnets: Mapping[str, str] = field(default_factory=dict)
    """Subnet by zone; a zone without one uses the account's default subnet there. That of the zone
    ``""`` is for launches that leave the zone to EC2."""
    security_group_ids: tuple[str, ...] = ()
    instance_profile: str | None = None
    key_name: str | None = None
    user_data: str = ""


class Ec2Provider:
    """Launches and terminates EC2 instances.

    A new instance reads its agent and its replica from its tags, through its metadata service. The
    caller's role needs ec2:RunInstances, CreateTags, TerminateInstances, DescribeInstances and
    DescribeSubnets.
    """

    def __init__(self, client: "EC2Client", settings: Ec2Settings) -> None:
        self._ec2 = client
        self._settings = settings

    @classmethod
    def connect(
        cls, region: str, settings: Ec2Settings, *, endpoint_url: str | None = None
    ) -> Self:
        """Create a provider with the credentials that boto3 finds, e.g. the instance's role."""
        # A notice leaves two minutes: an unreachable endpoint must not use them up.
        config = Config(
            connect_timeout=5, read_timeout=20, retries={"mode": "standard", "max_attempts": 4}
        )
        client = boto3.client("ec2", region_name=region, endpoint_url=endpoint_url, config=config)
        return cls(client, settings)

    async def launch(self, spec: LaunchSpec) -> str:
        """See ``Provider.launch``. The same token with another spec is an error."""
        return await self._call(lambda: self._launch(spec))

    async def terminate(self, instance_id: str) -> None:
        """See ``Provider.terminate``."""

        def work() -> None:
            try:
                self._ec2.terminate_instances(InstanceIds=[instance_id])
            except ClientError as error:
                if not _is_unknown(error):
                    raise

        await self._call(work)

    async def describe(self, instance_id: str) -> InstanceView | None:
        """See ``Provider.describe``."""

        def work() -> InstanceView | None:
            try:
                response = self._ec2.describe_instances(InstanceIds=[instance_id])
            except ClientError as error:
                if _is_unknown(error):
                    return None
                raise
            found = [i for r in response["Reservations"] for i in r["Instances"]]
            return _view(found[0]) if found else None

        return await self._call(work)

    async def find(self, tag: str, value: str) -> InstanceView | None:
        """Find a live instance by one of its tags; None when there is none."""

        def work() -> InstanceView | None:
            response = self._ec2.describe_instances(
                Filters=[
                    {"Name": f"tag:{tag}", "Values": [value]},
                    {"Name": "instance-state-name", "Values": LIVING},
                ]
            )
            found = [i for r in response["Reservations"] for i in r["Instances"]]
            return _view(found[0]) if found else None

        return await self._call(work)

    def _launch(self, spec: LaunchSpec) -> str:
        settings = self._settings
        tags = {
            NAME_TAG: spec.logical_agent_id,
            AGENT_TAG: spec.logical_agent_id,
            **({REPLICA_TAG: spec.replica_id} if spec.replica_id else {}),
            **spec.tags,
        }
        request: dict[str, Any] = {
            "ImageId": settings.image_id,
            "InstanceType": spec.instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": spec.client_token,
            # Version 2 only; the instance reads its own tags there.
            "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
            "TagSpecifications": [
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                }
            ],
        }
        if spec.mode == "spot":
            request["InstanceMarketOptions"] = {
                "MarketType": "spot",
                "SpotOptions": {
                    "SpotInstanceType": "one-time",
                    "InstanceInterruptionBehavior": "terminate",
                },
            }
        request |= self._optional(spec)
        response = self._ec2.run_instances(**request)
        return response["Instances"][0]["InstanceId"]

    def _optional(self, spec: LaunchSpec) -> dict[str, Any]:
        settings = self._settings
        profile = settings.instance_profile
        values = {
            "Placement": {"AvailabilityZone": spec.az} if spec.az else None,
            "SubnetId": settings.subnets.get(spec.az) or self._default_subnet(spec.az),
            "SecurityGroupIds": list(settings.security_group_ids),
            "IamInstanceProfile": {"Name": profile} if profile else None,
            "KeyName": settings.key_name,
            "UserData": settings.user_data,
        }
        return {name: value for name, value in values.items() if value}

    def _default_subnet(self, az: str) -> str | None:
        if not az:
            return None
        response = self._ec2.describe_subnets(
            Filters=[
                {"Name": "availability-zone", "Values": [az]},
                {"Name": "default-for-az", "Values": ["true"]},
            ]
        )
        return next((subnet["SubnetId"] for subnet in response["Subnets"]), None)

    async def _call(self, work: Callable[[], ResultT]) -> ResultT:
        try:
            return await asyncio.to_thread(work)
        except (ClientError, BotoCoreError) as error:
            raise ProviderError(str(error)) from error


def _is_unknown(error: ClientError) -> bool:
    code = error.response.get("Error", {}).get("Code", "")
    return code in {"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"}


def _view(instance: "InstanceTypeDef") -> InstanceView:
    return InstanceView(
        instance_id=instance["InstanceId"],
        instance_type=instance["InstanceType"],
        az=instance["Placement"]["AvailabilityZone"],
        mode="spot" if instance.get("InstanceLifecycle") == "spot" else "ondemand",
        state=STATES[instance["State"]["Name"]],
        tags={tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])},
    )
