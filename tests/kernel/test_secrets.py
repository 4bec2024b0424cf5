"""Secrets: their form, and what is refused without a look-up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.kernel.auth import secrets

EXAMPLE = "sp_live_0123456789ABCDEFGHIJKLMNOPQRSTUV_2aCHuP"


def test_the_documented_example_has_the_documented_checksum() -> None:
    """CRC32 in base 62 of everything before the last underscore."""
    assert secrets.checksum(EXAMPLE.rpartition("_")[0]) == "2aCHuP"
    assert secrets.label_of(EXAMPLE) == "live"
    assert secrets.prefix_of(EXAMPLE) == "sp_live_0123"


@pytest.mark.parametrize("label", ["live", "test", "ab", "a" * 16])
def test_an_issued_secret_is_well_formed_and_found_by_its_hash(label: str) -> None:
    """And no two are the same."""
    one, two = secrets.issue(label), secrets.issue(label)

    assert secrets.label_of(one.secret) == label
    assert one.hash == secrets.hash_of(one.secret)
    assert one.secret.startswith(one.prefix)
    assert one.secret != two.secret


@given(position=st.integers(8, len(EXAMPLE) - 1), letter=st.sampled_from(secrets.ALPHABET))
def test_one_wrong_character_is_noticed(position: int, letter: str) -> None:
    """CRC32 finds every change of a single byte."""
    changed = EXAMPLE[:position] + letter + EXAMPLE[position + 1 :]

    assert secrets.label_of(changed) == ("live" if changed == EXAMPLE else None)


@pytest.mark.parametrize(
    "text", ["sp_", "sp_live_", EXAMPLE + "x", EXAMPLE[:-1], "sp_LIVE" + EXAMPLE[7:]]
)
def test_a_damaged_secret_of_ours_has_no_label(text: str) -> None:
    """It is refused without a look-up."""
    assert secrets.label_of(text) is None


@pytest.mark.parametrize("text", ["", "sk-foreign", "SP_live_x"])
def test_a_secret_of_a_foreign_format_is_told_apart(text: str) -> None:
    """Imported keys are looked up as they are."""
    assert secrets.label_of(text) == ""
