"""Uploads are evaluated by a process without files, network and other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import onnx
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto
from spotplane_server.decisions.confined import model_checks
from spotplane_server.decisions.confined.protocol import Rejected
from spotplane_server.decisions.confined.worker import probe

from tests.decisions import models
from tests.support.eventually import eventually
from tests.support.plane import Plane

# Run in a process of its own; the layer under test is applied, then everything is tried.
TRY = """
import json, os, sys
from spotplane_server.decisions.confined import kernel_filters, sandbox
before = sandbox.list_allowed()
{confine}
print(json.dumps([before, sandbox.list_allowed()]))
"""
# The same question to the same model before and after, so that the test can fail.
READ = """
import json, os, sys
import numpy, onnxruntime
from spotplane_server.decisions.confined import sandbox
data = sys.stdin.buffer.read()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
def read():
    session = onnxruntime.InferenceSession(data, options, enable_fallback=0)
    return float(session.run(["confidence"], {"features": numpy.zeros((2, 13), "f")})[0][0])
os.chdir("/")
before = read()
sandbox.confine(1 << 30, 60)
try:
    after = read()
except Exception as err:
    after = str(err)
print(json.dumps([before, after]))
"""
WHOLE = "sandbox.confine(1 << 30, 60)"
# As a server that does not run as root; then a namespace of its own users gives it a network.
PLAIN_USER = f"os.setgid(65534); os.setuid(65534); {WHOLE}"
FILES = {"read a file", "list a directory", "write a file"}
SOCKETS = {"open a network socket", "open a local socket"}


def run(program: str, data: bytes = b"") -> Any:
    """What a program prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program], input=data, capture_output=True, check=True, timeout=50
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("confine", "denied"),
    [
        (WHOLE, FILES | SOCKETS | {"start a process"}),
        (PLAIN_USER, FILES | SOCKETS | {"start a process"}),
        ("kernel_filters.forbid_system_calls()", FILES | SOCKETS | {"start a process"}),
        ("kernel_filters.forbid_privileges(); kernel_filters.forbid_files()", FILES),
    ],
    ids=["whole", "plain-user", "seccomp", "landlock"],
)
def test_a_confined_process_cannot_open_files_or_sockets(
    confine: str, denied: set[str], tmp_path: Path
) -> None:
    program = f"import os; os.chdir({str(tmp_path)!r})\n" + TRY.format(confine=confine)
    before, after = run(program)
    assert set(before) == FILES | SOCKETS | {"start a process"}
    assert not denied & set(after)


def test_a_model_that_passed_the_checks_still_cannot_read_a_file() -> None:
    before, after = run(READ, models.reading("etc/passwd"))
    assert before == max(Path("/etc/passwd").read_bytes()[:4])
    assert "not permitted" in after


def test_the_process_of_an_upload_is_confined_on_this_machine() -> None:
    assert probe().confined


async def test_a_server_reports_whether_uploads_are_confined(plane: Plane) -> None:
    stub = health_pb2_grpc.HealthStub(plane.channel)

    async def reported() -> bool:
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service="sandbox"))
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    await eventually(reported)


CARRIERS = dict(models.carriers(models.external_tensor()))


def test_a_model_can_hold_tensors_in_all_known_places() -> None:
    assert {
        "graph.initializer",
        "graph.sparse_initializer.values",
        "graph.sparse_initializer.indices",
        "graph.node.attribute.t",
        "graph.node.attribute.tensors",
        "graph.node.attribute.sparse_tensor.values",
        "graph.node.attribute.sparse_tensors.indices",
        "functions.node.attribute.t",
        "functions.attribute_proto.g.initializer",
        "training_info.algorithm.initializer",
    } <= set(CARRIERS)


@pytest.mark.parametrize("path", CARRIERS)
def test_external_data_is_rejected_wherever_it_is(path: str) -> None:
    with pytest.raises(Rejected, match="external data"):
        model_checks.check(CARRIERS[path])


@pytest.mark.parametrize("path", CARRIERS)
def test_a_tensor_without_external_data_is_accepted(path: str) -> None:
    """Apart from functions, which are not allowed at all."""
    inline = TensorProto(name="values", data_type=TensorProto.UINT8, dims=[1], raw_data=b"1")
    model = dict(models.carriers(inline))[path]
    if path.startswith("functions"):
        with pytest.raises(Rejected, match="functions"):
            model_checks.check(model)
    else:
        model_checks.check(model)


def test_external_data_in_a_subgraph_of_a_subgraph_is_rejected() -> None:
    model = onnx.ModelProto()
    graph = model.graph
    for _ in range(3):
        graph = graph.node.add().attribute.add().g
    graph.initializer.append(models.external_tensor())
    with pytest.raises(Rejected, match="external data"):
        model_checks.check(model)


def nested(depth: int) -> Message:
    """A model with subgraphs in each other."""
    model = onnx.ModelProto()
    graph = model.graph
    for _ in range(depth):
        graph = graph.node.add().attribute.add().g
    graph.name = "innermost"
    return model


def huge(sparse: bool) -> Message:
    """A model with a tensor of 2^40 elements, of which it holds none."""
    model = onnx.ModelProto()
    tensor = model.graph.sparse_initializer.add() if sparse else model.graph.initializer.add()
    tensor.dims.extend([1 << 20, 1 << 20])
    return model


def unknown() -> Message:
    """A model with a field that this version of ONNX does not have."""
    model = onnx.ModelProto()
    model.graph.initializer.add().MergeFromString(b"\xfa\x3f\x01x")
    return model


def custom() -> Message:
    """A model with a custom operator in a function."""
    model = onnx.ModelProto()
    model.functions.add().node.add().domain = "evil.ops"
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nested(30), "nested"),
        (huge(sparse=False), "elements"),
        (huge(sparse=True), "elements"),
        (unknown(), "not part of ONNX"),
        (custom(), "evil.ops"),
    ],
    ids=["nested", "huge", "huge_sparse", "unknown", "custom"],
)
def test_what_would_exceed_the_libraries_is_rejected(model: Message, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        model_checks.check(model)
