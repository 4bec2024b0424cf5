"""EC2's metadata service: who the instance is, and its notices."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from spotplane_agents import CloudNotice, Imds, ImdsNoticeSource, MetadataUnavailable

from tests.sdk.conftest import MakeAgent
from tests.sdk.metadata import MetadataService
from tests.sdk.plane import ScriptedPlane
from tests.support.eventually import eventually

ACTION = "meta-data/spot/instance-action"
ADVICE = "meta-data/events/recommendations/rebalance"
DEADLINE = datetime(2026, 1, 2, 8, 22, tzinfo=UTC)
DOCUMENT = {
    "instanceId": "i-0abc",
    "instanceType": "g5.xlarge",
    "region": "us-east-1",
    "availabilityZone": "us-east-1a",
    "imageId": "ami-1",
    "privateIp": "10.0.0.7",
}


@pytest.fixture
async def service() -> AsyncIterator[MetadataService]:
    async with MetadataService() as running:
        yield running


async def test_identity_comes_from_the_document_and_the_tags(service: MetadataService) -> None:
    """An instance that was launched as a replica knows which one."""
    service.items |= {
        "dynamic/instance-identity/document": json.dumps(DOCUMENT),
        "meta-data/instance-life-cycle": "spot",
        "meta-data/local-hostname": "ip-10-0-0-7",
        "meta-data/tags/instance/spotplane:agent": "chat",
        "meta-data/tags/instance/spotplane:replica-id": "rep-1",
    }

    found = await Imds(service.endpoint).identity()

    assert (found.instance_id, found.pool_id, found.mode) == (
        "i-0abc",
        "g5.xlarge.us-east-1a",
        "spot",
    )
    assert (found.logical_agent_id, found.replica_id, found.public_ip) == ("chat", "rep-1", None)
    assert service.tokens_given == 1


async def test_expired_token_is_renewed(service: MetadataService) -> None:
    """Tokens live six hours, agents for months."""
    service.items["meta-data/ami-id"] = "ami-1"
    imds = Imds(service.endpoint)
    await imds.get("meta-data/ami-id")
    service.expire_token()

    assert await imds.get("meta-data/ami-id") == "ami-1"


async def test_absent_item_is_none(service: MetadataService) -> None:
    assert await Imds(service.endpoint).get(ACTION) is None


async def test_silent_service_is_given_up_in_time(service: MetadataService) -> None:
    """Packets to it may be dropped when the hop limit is too low."""
    service.silent = True

    with pytest.raises(MetadataUnavailable):
        await Imds(service.endpoint, timeout_seconds=0.05).get(ACTION)


async def test_machine_without_the_service_is_no_instance() -> None:
    """Nothing listens there."""
    with pytest.raises(MetadataUnavailable):
        await Imds("http://127.0.0.1:1").identity()


async def test_notices_are_yielded_once_each(service: MetadataService) -> None:
    """The service repeats them until the end; a new deadline is a new notice."""
    service.items[ADVICE] = '{"noticeTime": "2026-01-02T08:00:00Z"}'
    reported = ImdsNoticeSource(Imds(service.endpoint), period_seconds=0.01).notices()

    first = await anext(reported)
    service.items[ACTION] = '{"action": "terminate", "time": "2026-01-02T08:22:00Z"}'
    second = await anext(reported)
    service.items[ACTION] = '{"action": "terminate", "time": "2026-01-02T08:23:00Z"}'
    third = await anext(reported)

    assert [n.kind for n in (first, second, third)] == ["rebalance", "termination", "termination"]
    assert second.deadline == DEADLINE
    assert third.deadline == DEADLINE.replace(minute=23)


async def test_watch_survives_an_outage_and_nonsense(service: MetadataService) -> None:
    """The service fails now and then; the notice after that still counts."""
    service.items[ACTION] = "not json"
    reported = ImdsNoticeSource(Imds(service.endpoint), period_seconds=0.01).notices()

    async def first() -> CloudNotice:
        return await anext(reported)

    import asyncio

    waiting = asyncio.create_task(first())
    await eventually(lambda: len(service.requests) > 5)
    service.items[ACTION] = '{"action": "terminate", "time": "2026-01-02T08:22:00Z"}'

    assert (await waiting).deadline == DEADLINE


async def test_notice_reaches_the_plane(
    plane: ScriptedPlane, make_agent: MakeAgent, service: MetadataService
) -> None:
    """From the metadata service over the agent's stream."""
    source = ImdsNoticeSource(Imds(service.endpoint), period_seconds=0.01)
    async with make_agent(notices=source) as agent:
        await agent.wait_for(connected=True)
        service.items[ACTION] = '{"action": "terminate", "time": "2026-01-02T08:22:00Z"}'
        (notice,) = await plane.wait_reports("notice")

    assert notice.instance_id == "i-1"
    assert notice.deadline.ToDatetime(UTC) == DEADLINE
