"""The connection over TLS."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.sdk.conftest import MakeAgent
from tests.sdk.plane import ScriptedPlane
from tests.support.eventually import eventually


def certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate of 127.0.0.1 and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plane")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return signed.public_bytes(serialization.Encoding.PEM), private


async def test_agent_trusts_the_roots_it_is_given(make_agent: MakeAgent) -> None:
    roots, key = certificate()
    others, _ = certificate()
    async with ScriptedPlane(grpc.ssl_server_credentials([(key, roots)])) as plane:
        async with make_agent(server=plane.address, root_certificates=others) as agent:
            await eventually(lambda: agent.connection_state == "waiting")
            assert plane.keys == []

        async with make_agent(server=plane.address, root_certificates=roots) as agent:
            await agent.wait_for(connected=True)
