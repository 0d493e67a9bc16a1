"""The law on nets that nobody thought of."""

from __future__ import annotations

from pathlib import Path

from coupling_law import agree, costs_agree, feeds_for, holds, some
from grown_nets import NETS
from hypothesis import given, settings
from hypothesis import strategies as st

from hasten.graph import Graph
from hasten.graph.coupling import couple, prepare


@settings(deadline=None, max_examples=120)
@given(NETS, st.sampled_from(["outer", "inner"]), st.integers(0, 99))
def test_a_narrow_net_computes_what_the_masked_one_does(grown: Graph, side: str, seed: int) -> None:
    whole = prepare(grown)
    coupling = couple(whole, side=side)
    units = some(coupling, seed)
    feeds = feeds_for(whole, free=2)
    agree(whole, coupling, units, feeds)
    costs_agree(whole, coupling, units, feeds)


def test_a_real_model() -> None:
    path = Path(__file__).parents[3] / "examples" / "fashion_mnist" / "model.onnx"
    whole = Graph.open(path)
    expected = {width.name: len(width) for width in couple(prepare(whole)).widths}
    assert len(expected) >= 2
    coupling = holds(whole, expected, rounds=1)
    assert [skip.reason for skip in coupling.fixed if "output" not in skip.reason] == []
