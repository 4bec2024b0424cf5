"""Conversion between stream messages and the REST routes' JSON."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1.agent_pb2 import Agent, RegisterRequest, RegisterResponse

from spotplane_agents.commands import struct_of
from spotplane_agents.errors import RestUnavailable
from spotplane_agents.host import Load
from spotplane_agents.identity import Identity
from spotplane_agents.providers.market import NANOUSD

Json: TypeAlias = Mapping[str, Any]

# Members of a leased command that its handler finds among the parameters; the rest is in
# `metadata`.
_PARAMETERS: Final = ("target_mode", "target_pool_id", "replica_id", "terminate_wait_seconds")
# JSON has no 64-bit integers, so ProtoJSON writes texts; the server accepts numbers everywhere.
_COUNTS: Final = ("prompt_tokens", "completion_tokens", "cached_tokens")


class Post(NamedTuple):
    """One REST call that sends data to the server."""

    method: str
    path: str
    body: Json


def register(request: RegisterRequest) -> Post:
    """Return the call that registers an instance."""
    return Post("POST", "/v1/agents/register", _plain(request))


def registered(payload: Any) -> RegisterResponse:
    """Parse the response to a registration.

    Raises:
        RestUnavailable: It is not a response of the server.
    """
    response = RegisterResponse()
    _parse(payload, response)
    return response


def agent_path(agent_id: str) -> str:
    """Return the path of an agent and its configuration."""
    return f"/v1/agents/{agent_id}"


def heartbeat(agent_id: str, here: Identity, load: Load) -> Post:
    """Return a heartbeat of an instance."""
    metrics = {"cpu_percent": load.cpu_percent, "memory_percent": load.memory_percent}
    body = {
        "status": "online",
        "instance_id": here.instance_id,
        "instance_type": here.instance_type,
        "az": here.az,
        "mode": here.mode,
        "monitored_instances": [here.instance_id],
        "health_metrics": {name: value for name, value in metrics.items() if value is not None},
    }
    return Post("POST", f"/api/agents/{agent_id}/heartbeat", body)


def goodbye(agent_id: str, instance_id: str, reason: str) -> Post:
    """Return the call that ends a session on purpose."""
    body = {"cloud_instance_id": instance_id, "metadata": {"reason": reason}}
    return Post("POST", f"/api/agents/{agent_id}/shutdown", body)


def state(agent: Any, replicas: Any, instance_id: str, last_role: str) -> pb.DesiredState:
    """Return the desired state of an instance, from the server's view of its agent.

    A poll reports the primary and the replicas, but no generation: that is 0, so that the next
    state
    of a stream replaces it.

    Args:
        agent: The agent, read after ``replicas``: a replica promoted in between is primary then.
        replicas: The live replicas.
        instance_id: The instance in question.
        last_role: Its role until now.

    Raises:
        RestUnavailable: It is not a response of the server.
    """
    known = Agent()
    _parse(agent, known)
    found = pb.DesiredState(config=known.config, primary_instance_id=known.instance_id)
    bound = _find(replicas, instance_id)
    if known.instance_id == instance_id:
        found.role = "primary"
    elif bound:
        found.role, found.replica_id = "replica", bound
    else:
        found.role = "retired" if last_role in {"primary", "replica"} else last_role
    return found


def delivery(item: Any) -> pb.CommandDelivery:
    """Parse a leased command.

    Raises:
        RestUnavailable: It is not a response of the server.
    """
    try:
        given = {name: item[name] for name in _PARAMETERS if item.get(name) is not None}
        order = pb.CommandDelivery(
            command_id=item["id"],
            type=item["command_type"],
            name=item["command_type"],
            parameters=struct_of({**(item.get("metadata") or {}), **given}),
            priority=item["priority"],
            delivery=1,
        )
        order.created_at.FromJsonString(item["created_at"])
        order.expires_at.FromJsonString(item["expires_at"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RestUnavailable("a command cannot be read") from error
    return order


def report(agent_id: str, instance_id: str, report_message: pb.Report) -> Post:
    """Convert a report into the call of its route."""
    kind = report_message.WhichOneof("kind")
    assert kind is not None  # the spool stores no report without a kind
    post = _REPORTS[kind](f"/api/agents/{agent_id}", getattr(report_message, kind))
    return post._replace(body={"instance_id": instance_id, **post.body})


def _result(at: str, result: pb.CommandResult) -> Post:
    body = {"success": result.success, "message": result.message}
    if result.HasField("result"):
        body["result"] = MessageToDict(result.result)
    return Post("POST", f"{at}/commands/{result.command_id}/executed", body)


def _notice(at: str, notice: pb.Notice) -> Post:
    body: dict[str, Any] = {"detected_at": _time(notice.detected_at)}
    if notice.instance_id:
        body["instance_id"] = notice.instance_id
    if notice.kind == pb.Notice.KIND_REBALANCE:
        return Post("POST", f"{at}/rebalance-recommendation", body)
    if notice.HasField("deadline"):
        body["termination_time"] = _time(notice.deadline)
    return Post("POST", f"{at}/termination-imminent", body)


def _replica(at: str, replica: pb.ReplicaReport) -> Post:
    one = f"{at}/replicas/{replica.replica_id}"
    if replica.HasField("sync_progress"):
        progress = {"state_transfer_progress": replica.sync_progress, "status": replica.status}
        return Post("POST", f"{one}/sync-status", progress)
    if replica.instance_id and replica.status in {"launching", "syncing"}:
        return Post("PUT", one, {"instance_id": replica.instance_id, "status": "syncing"})
    body = {"status": replica.status}
    if replica.message:
        body["error_message"] = replica.message
    return Post("POST", f"{one}/status", body)


def _prices(at: str, prices: pb.PriceReport) -> Post:
    spot = [
        {
            "instance_type": price.instance_type,
            "az": price.az,
            "pool_id": f"{price.instance_type}.{price.az}",
            "price_type": "spot",
            "spot_price": _dollars(price.price_nanousd_per_hour),
        }
        for price in prices.spot
    ]
    on_demand = [
        {
            "instance_type": price.instance_type,
            "price_type": "ondemand",
            "price": _dollars(price.price_nanousd_per_hour),
        }
        for price in prices.on_demand
    ]
    body = {
        "region": prices.region,
        "timestamp": _time(prices.observed_at),
        "pricing_data_array": spot + on_demand,
    }
    return Post("POST", f"{at}/pricing-report", body)


def _usage(_at: str, usage: pb.UsageReport) -> Post:
    records = [_plain(record) for record in usage.records]
    for record in records:
        record.update({name: int(record[name]) for name in _COUNTS if name in record})
    return Post("POST", "/v1/usage/records", {"records": records})


def _termination(at: str, end: pb.TerminationReport) -> Post:
    body = {
        "instance_id": end.instance_id,
        "success": True,
        "terminated_at": _time(end.terminated_at),
    }
    return Post("POST", f"{at}/termination-report", body)


_REPORTS: Final[Mapping[str, Callable[[str, Any], Post]]] = {
    "command_result": _result,
    "notice": _notice,
    "replica": _replica,
    "prices": _prices,
    "usage": _usage,
    "termination": _termination,
}


def _find(replicas: Any, instance_id: str) -> str:
    try:
        found = [r["id"] for r in replicas["replicas"] if r["instance_id"] == instance_id]
    except (KeyError, TypeError) as error:
        raise RestUnavailable("the replicas cannot be read") from error
    return str(found[0]) if found else ""


def _plain(message: Any) -> dict[str, Any]:
    plain: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return plain


def _parse(payload: Any, into: Any) -> None:
    try:
        ParseDict(payload, into, ignore_unknown_fields=True)
    except (ParseError, AttributeError, TypeError) as error:
        raise RestUnavailable("an answer cannot be read") from error


def _time(at: Timestamp) -> str:
    text: str = at.ToJsonString()
    return text


def _dollars(nanousd: int) -> str:
    """Return nano-USD as dollars, exactly."""
    return f"{nanousd // NANOUSD}.{nanousd % NANOUSD:09d}"
