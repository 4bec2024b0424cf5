"""The edge without reachable upstreams, and the edge under TLS."""

from __future__ import annotations

import ssl
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from spotplane.v1 import tenant_pb2, tenant_pb2_grpc
from spotplane_bridge.addresses import Address
from spotplane_bridge.edge.config import EdgeConfig
from spotplane_bridge.edge.process import start_envoy

from tests.envoy.conftest import ANY_PORT
from tests.envoy.stack import Backend, grpc_server

ANONYMOUS = Address("127.0.0.1", 9)


async def test_unreachable_upstreams_are_503_objects(tmp_path: Path) -> None:
    """Server or bridge away: an error object that names neither, and how long to wait."""
    config = EdgeConfig(
        ANY_PORT, grpc_upstreams=(ANONYMOUS,), bridge_upstreams=(ANONYMOUS,), admin=ANY_PORT
    )
    envoy = await start_envoy(config, tmp_path, tmp_path / "log", concurrency=1)
    base = f"http://{envoy.listen.host}:{envoy.listen.port}"
    try:
        async with aiohttp.ClientSession(base) as http:
            for path in ("/admin/tenants", "/api/agents"):
                async with http.get(path, headers={"x-request-id": "r1"}) as response:
                    error = (await response.json())["error"]
                    assert response.status == error["status_code"] == 503, path
                    assert error["code"] == "SERVICE_UNAVAILABLE"
                    assert error["correlation_id"] == response.headers["x-request-id"] == "r1"
                    assert response.headers["retry-after"] == "1"
                    assert response.headers["cache-control"] == "no-store"
                    assert "127.0.0.1" not in error["message"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{envoy.listen.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await tenant_pb2_grpc.TenantServiceStub(channel).GetTenant(
                    tenant_pb2.GetTenantRequest(id="t")
                )
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "{" not in (caught.value.details() or "")
    finally:
        await envoy.stop()


def _certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_file, key_file


async def test_tls_serves_both_protocols_and_nothing_old(tmp_path: Path) -> None:
    cert, key = _certificate(tmp_path)
    async with grpc_server(Backend()) as port:
        config = EdgeConfig(
            ANY_PORT,
            grpc_upstreams=(Address("127.0.0.1", port),),
            admin=ANY_PORT,
            tls_cert_file=str(cert),
            tls_key_file=str(key),
        )
        envoy = await start_envoy(config, tmp_path, tmp_path / "log", concurrency=1)
        target = f"localhost:{envoy.listen.port}"
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        trusting = ssl.create_default_context(cafile=str(cert))
        old = ssl.create_default_context(cafile=str(cert))
        with warnings.catch_warnings(action="ignore"):  # Python warns of what this test wants
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        try:
            async with (
                aiohttp.ClientSession() as http,
                grpc.aio.secure_channel(target, credentials) as channel,
            ):
                async with http.get(f"https://{target}/admin/tenants/t1", ssl=trusting) as answer:
                    assert answer.status == 200
                found = await tenant_pb2_grpc.TenantServiceStub(channel).GetTenant(
                    tenant_pb2.GetTenantRequest(id="t2")
                )
                assert found.id == "t2"
                with pytest.raises(aiohttp.ClientConnectorError):
                    await http.get(f"https://{target}/admin/tenants/t1", ssl=old)
        finally:
            await envoy.stop()
