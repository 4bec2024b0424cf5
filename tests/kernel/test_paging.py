"""Page tokens: signed, and bound to their list."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.errors import Invalid

TOKENS = PageTokens(b"secret")


def test_a_token_gives_its_key_back_to_every_server_with_the_secret() -> None:
    """Instants and ids come back as text, to the microsecond."""
    at, item = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), uuid4()

    token = TOKENS.seal("list", (at, item, 7))

    assert PageTokens(b"secret").open("list", token) == [at.isoformat(), str(item), 7]


@given(st.text(max_size=80))
def test_whatever_else_is_sent_is_refused(text: str) -> None:
    """Never as anything but a bad token."""
    with pytest.raises(Invalid) as caught:
        TOKENS.open("list", text)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_a_token_of_another_list_or_another_plane_is_refused() -> None:
    """The binding and the secret both count."""
    token = TOKENS.seal("list", (1,))
    for tokens, binding in ((TOKENS, "other"), (PageTokens(b"else"), "list")):
        with pytest.raises(Invalid):
            tokens.open(binding, token)
