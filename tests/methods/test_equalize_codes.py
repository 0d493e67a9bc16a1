"""equalize by codes: the same function, and weights that lose less once they are rounded to few bits."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from small_graphs import Net, attention, calibration_for, conv_net, feeds_of
from uneven_nets import FLOAT, PATTERNS, C, Uneven, pointwise, shared, transposed

from hasten import methods
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

WIDE = 64


def change_of(graph: Graph, tmp_path, *steps: Step) -> methods.Change:
    data = calibration_for(graph, tmp_path / f"store-{id(graph)}-{id(steps)}")
    return methods.apply(Recipe(steps), graph, methods.Context(calibration=data, work=tmp_path, batch=1))


def by_codes(graph: Graph, tmp_path, **params: object) -> methods.Change:
    return change_of(graph, tmp_path, Step("equalize", {"by": "codes", "bits": 4, **params}))


def agree(graph: Graph, changed: Graph) -> None:
    feeds = feeds_of(graph)
    found = Evaluator(changed, optimized=False).run(feeds)
    for name, wanted in Evaluator(graph, optimized=False).run(feeds).items():
        # some ten layers of sums of up to 2^9 float32 products: √10·√2^9 roundoffs, four times over
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=2.0**-24 * 300 * np.abs(wanted).max())


@pytest.mark.parametrize("pattern", sorted(PATTERNS.keys() - {"shared", "transposed"}))
def test_the_function_stays_and_both_sides_change(pattern, tmp_path):
    graph = PATTERNS[pattern](Uneven(3))
    change = by_codes(graph, tmp_path, strength=0.5, residuals=True)
    changed = {site.name.partition("_")[2] for site in change.sites}
    assert {"first", "second"} <= changed
    agree(graph, change.graph)


@pytest.mark.parametrize("make", [conv_net, attention])
def test_whole_nets_stay_what_they_are(make, tmp_path):
    graph = make()
    for params in ({}, {"residuals": True, "group": 16, "symmetric": False}):
        agree(graph, by_codes(graph, tmp_path, **params).graph)


def loud_tokens(net: Net) -> Graph:
    """A normalization makes some channels loud; two layers read them."""
    gain = np.exp(net.rng.normal(size=WIDE)).astype(np.float32)
    x = net.node("LayerNormalization", ["x", net.constant("g", gain), net.weight("b", WIDE)], "first")
    products = [net.node("MatMul", [x, net.weight(f"w{i}", WIDE, 48)], f"y{i}") for i in range(2)]
    net.node("Add", products, "y")
    return net.graph([("x", FLOAT, ["n", "t", WIDE])], [("y", FLOAT, ["n", "t", 48])])


def loud_pictures(net: Net) -> Graph:
    """A convolution makes some channels loud, ReLU lets them pass, a grouped and a plain one read them."""
    w = net.rng.normal(size=(WIDE, 8, 1, 1)) * np.exp(net.rng.normal(size=(WIDE, 1, 1, 1)))
    x = net.node("Conv", ["x", net.constant("w0", w.astype(np.float32)), net.weight("b0", WIDE)], "first")
    x = net.node("Relu", [x], "r")
    plain = net.node("Conv", [x, net.weight("w1", 32, WIDE, 3, 3, fan_in=WIDE * 9)], "y1", pads=[1] * 4)
    parted = net.node("Conv", [x, net.weight("w2", 32, WIDE // 2, 1, 1, fan_in=WIDE)], "y2", group=2)
    net.node("Add", [plain, parted], "y")
    return net.graph([("x", FLOAT, ["n", 8, 6, 6])], [("y", FLOAT, ["n", 32, 6, 6])])


def calibration_error(graph: Graph, tmp_path, *steps: Step) -> float:
    """Of the outputs on the samples that calibrate, after all steps."""
    change = change_of(graph, tmp_path, *steps)
    data = calibration_for(graph, tmp_path / f"judge-{len(steps)}")
    error = size = 0.0
    for batch in data.batches(1):
        feeds = batch.feeds(graph.inputs)
        wanted, found = (Evaluator(g, optimized=False).run(feeds)["y"] for g in (graph, change.graph))
        error += np.square(found - wanted, dtype=np.float64).sum()
        size += np.square(wanted, dtype=np.float64).sum()
    return error / size


@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("make", "most"), [(loud_tokens, 0.6), (loud_pictures, 0.85)])
def test_codes_of_four_bits_lose_less(make: Callable[[Net], Graph], most, symmetric, group, tmp_path):
    graph = make(Net(3))
    codes = {"bits": 4, "group": group, "symmetric": symmetric}
    store = Step("compress_weights", codes)
    plain = calibration_error(graph, tmp_path, store)
    assert (
        calibration_error(graph, tmp_path, Step("equalize", {"by": "codes", **codes}), store) < most * plain
    )


@pytest.mark.parametrize("seed", range(4))
def test_codes_never_lose_more_on_the_samples(seed, tmp_path):
    """One layer reads what is scaled, so its error is that of the outputs."""
    net = Net(seed)
    gain = np.exp(0.1 * seed * net.rng.normal(size=WIDE)).astype(np.float32)
    x = net.node("LayerNormalization", ["x", net.constant("g", gain), net.weight("b", WIDE)], "first")
    net.node("MatMul", [x, net.weight("w", WIDE, 48)], "y")
    graph = net.graph([("x", FLOAT, ["n", "t", WIDE])], [("y", FLOAT, ["n", "t", 48])])
    codes = {"bits": 4, "group": 32}
    store = Step("compress_weights", codes)
    plain = calibration_error(graph, tmp_path, store)
    found = calibration_error(graph, tmp_path, Step("equalize", {"by": "codes", **codes}), store)
    assert found <= plain * (1 + 1e-3)  # of float32 sums in another order


def test_the_layer_that_makes_the_channels_keeps_its_codes(tmp_path):
    graph = loud_pictures(Net(3))
    change = by_codes(graph, tmp_path, group=4)
    before, after = (g.weights["w0"].const_value.numpy()[:, :, 0, 0] for g in (graph, change.graph))
    ratio = after / before
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-5)
    assert ratio.max() / ratio.min() > 1.5


def reasons(change: methods.Change) -> dict[str, str]:
    return {skip.name.partition("_")[2]: skip.reason for skip in change.skipped}


def test_what_reads_unscalable_values_is_left_with_the_reason(tmp_path):
    net = Uneven(1)
    x = net.node("Gelu", [net.product("x", "first")], "mid")
    x = net.node("LayerNormalization", [net.product(x, "second"), net.weight("g", C)], "norm")
    x = net.node("Add", [x, net.product(x, "third")], "sum")
    net.node("Softmax", [net.product(x, "fourth")], "last")
    left = reasons(by_codes(net.tokens("last"), tmp_path))
    assert left == {
        "first": "it reads an input of the graph",
        "second": "it reads what Gelu Gelu_mid makes, which nothing can scale",
        "third": "Add Add_sum passes it on in a sum (residuals)",
        "fourth": "it reads what Add Add_sum makes, which nothing can scale",
    }


@pytest.mark.parametrize(
    ("make", "reason"), [(shared, "MatMul MatMul_second"), (transposed, "ConvTranspose ConvTranspose_second")]
)
def test_what_cannot_be_observed_is_left(make, reason, tmp_path):
    change = by_codes(make(Uneven(1)), tmp_path)
    assert not change.effective
    assert reasons(change)["second"] == f"what {reason} multiplies cannot be observed"


def test_a_depthwise_layer_gains_nothing(tmp_path):
    change = by_codes(pointwise("Relu", Uneven(5)), tmp_path)
    assert not change.effective
    assert reasons(change)["second"] == "no factors make it round better on the samples"


def test_the_note_says_what_the_samples_gain(tmp_path):
    (note,) = by_codes(loud_tokens(Net(3)), tmp_path, group=16).notes
    assert note.startswith("2 layers read what could be scaled; rounded to the nearest in 4 bits")
    after, before = (float(part) for part in re.findall(r"([\d.]+)%", note))
    assert 0 < after < 0.6 * before


def test_an_excluded_layer_is_left(tmp_path):
    change = by_codes(loud_tokens(Net(3)), tmp_path, exclude=["MatMul_y1"])
    assert not change.effective
    assert reasons(change) == {"y0": "excluded by the recipe", "y1": "excluded by the recipe"}


def test_samples_are_needed_and_what_the_rule_ignores_is_refused(tmp_path):
    graph, empty = loud_tokens(Net(3)), methods.Context(calibration=None, work=tmp_path)
    params = methods.parameters(Step("equalize", {"by": "codes"}))
    with pytest.raises(MethodError, match="equalize by codes has no samples"):
        methods.find("equalize").apply(graph, params, empty)
    for given in ({"group": 32}, {"symmetric": False, "by": "activations"}):
        with pytest.raises(RecipeError, match="is nothing that by: "):
            methods.parameters(Step("equalize", given))
