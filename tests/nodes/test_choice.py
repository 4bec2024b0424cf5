"""Which type is launched."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from spotplane_server.catalog.associations_store import Offer
from spotplane_server.kernel.errors import Semantic
from spotplane_server.nodes import instance_type_selection
from spotplane_server.nodes.instance_type_selection import Need

A10G = Offer(
    1,
    "g5.xlarge",
    "g5.xlarge",
    "NVIDIA A10G",
    1,
    Decimal(24),
    4,
    Decimal(16),
    Decimal("1.006"),
    Decimal("0.302"),
    True,
    True,
    "available",
)
T4 = replace(
    A10G, id=2, instance_type="g4dn.xlarge", gpu_model="NVIDIA T4", gpu_memory_gb=Decimal(16)
)
CHEAP = replace(A10G, id=3, instance_type="g5.2xlarge", price_per_hour=Decimal("0.9"))
UNPRICED = replace(A10G, id=4, instance_type="g5.4xlarge", price_per_hour=None)
SOLD_OUT = replace(CHEAP, id=5, instance_type="g5.8xlarge", stock_status="out_of_stock")
ANY = Need(16, None, None, None, spot=False)


def test_the_cheapest_that_will_do_is_taken() -> None:
    """One without a price comes last, and what is sold out never."""
    offers = [UNPRICED, SOLD_OUT, A10G, CHEAP]
    assert instance_type_selection.choose(offers, replace(ANY, gpu="a10g")) == CHEAP
    assert instance_type_selection.choose([UNPRICED], ANY) == UNPRICED
    assert instance_type_selection.choose([A10G, T4], replace(ANY, vram_gb=20)) == A10G
    assert (
        instance_type_selection.choose([A10G, CHEAP], replace(ANY, instance_type="g5.xlarge"))
        == A10G
    )


@pytest.mark.parametrize(
    ("need", "field"),
    [
        (replace(ANY, gpu="H100"), "gpu"),
        (replace(ANY, vram_gb=25), "instance_type"),
        (replace(ANY, gpu_count=2), "instance_type"),
        (replace(ANY, instance_type="p5.48xlarge"), "instance_type"),
        (replace(ANY, instance_type="g5.8xlarge"), "instance_type"),
        (replace(ANY, instance_type="g4dn.xlarge", vram_gb=17), "instance_type"),
        (replace(ANY, instance_type="g4dn.xlarge", gpu="A10G"), "gpu"),
        (replace(ANY, instance_type="g5.xlarge", gpu_count=4), "gpu_count"),
    ],
)
def test_what_will_not_do_is_refused_by_field(need: Need, field: str) -> None:
    """The one that rules it out."""
    with pytest.raises(Semantic) as caught:
        instance_type_selection.choose([A10G, T4, SOLD_OUT], need)
    assert [violation.field for violation in caught.value.details] == [field]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("NVIDIA A10G", "a10g", True),
        ("NVIDIA A100 80GB", "A100-80GB", True),
        ("NVIDIA A100", "A100-80GB", False),
    ],
)
def test_gpus_are_told_apart_by_name(one: str, other: str, same: bool) -> None:
    """However it is written."""
    assert instance_type_selection.same_gpu(one, other) is same
