"""Ids, addresses and credentials of requests."""

from __future__ import annotations

import ipaddress

import pytest
from multidict import CIMultiDict
from spotplane_bridge.errors import ErrorFormat
from spotplane_bridge.headers import Ids, client_ip, forwarded_metadata, ids_of, key_prefix

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1"))
KEY = "sp_live_0123456789ABCDEFGHIJKLMNOPQRSTUV_2aCHuP"


def ids(family: ErrorFormat, method: str = "GET", **headers: str) -> Ids:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ids_of(CIMultiDict(named), family, method)


def test_well_formed_ids_are_taken_over() -> None:
    both = ids(ErrorFormat.CANONICAL, X_Request_ID="a.b-1", X_Correlation_ID="c")
    assert both == Ids("a.b-1", "a.b-1")
    assert ids(ErrorFormat.CANONICAL, X_Correlation_ID="c") == Ids("c", "c")


@pytest.mark.parametrize("bad", ["", "a b", "ä", "x" * 129, "a\tb", "<script>"])
def test_other_ids_are_replaced(bad: str) -> None:
    """A log line must not carry what a caller makes up."""
    assert ids(ErrorFormat.CANONICAL, X_Request_ID=bad).request != bad


def test_a_fleet_writes_request_id_is_no_correlation_id() -> None:
    """Some agents send one request id for ever; it would tie all their calls together."""
    assert ids(ErrorFormat.LEGACY, "POST", X_Request_ID="sticky").correlation != "sticky"
    assert ids(ErrorFormat.LEGACY, "GET", X_Request_ID="read").correlation == "read"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert ids(ErrorFormat.LEGACY, "POST", traceparent=trace).correlation == trace[3:35]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["1.2.3.4"], "203.0.113.9"),
        ("10.1.1.1", [], "10.1.1.1"),
        ("10.1.1.1", ["1.2.3.4, 10.2.2.2"], "1.2.3.4"),
        ("10.1.1.1", ["6.6.6.6, 1.2.3.4", "10.2.2.2"], "1.2.3.4"),
        ("::1", ["2001:db8::1"], "2001:db8::1"),
        ("10.1.1.1", ["garbage"], "10.1.1.1"),
        (None, ["1.2.3.4"], None),
    ],
)
def test_only_trusted_proxies_determine_the_client_address(
    peer: str | None, forwarded: list[str], client: str | None
) -> None:
    """The right-most hop that is not ours; what stands left of it is the caller's own claim."""
    assert client_ip(peer, forwarded, PROXIES) == client


def test_credentials_that_metadata_cannot_carry_stay_bad_credentials() -> None:
    """They arrive changed, so that the server refuses them, instead of ending in a 500."""
    headers = CIMultiDict({"Authorization": "Bearer schlüssel\x7f", "X-Admin-Token": "x" * 5000})
    sent = dict(forwarded_metadata(headers, Ids("r", "c"), "1.2.3.4"))
    assert sent["authorization"] == "Bearer schl?ssel?"
    assert len(sent["x-admin-token"]) == 1024
    assert (sent["x-request-id"], sent["x-forwarded-for"]) == ("c", "1.2.3.4")


def test_logs_show_at_most_the_start_of_a_key() -> None:
    """12 characters of a well-formed key, nothing of anything else."""
    assert key_prefix({"Authorization": f"Bearer {KEY}"}) == KEY[:12]
    assert key_prefix({"X-Client-Token": KEY}) == KEY[:12]
    assert key_prefix({"Authorization": "Bearer hunter2hunter2hunter2"}) is None
