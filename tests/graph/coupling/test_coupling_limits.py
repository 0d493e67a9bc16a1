"""What must stay whole: signatures, what no rule knows, what is read elsewhere, the last of its kind."""

from __future__ import annotations

import numpy as np
import pytest
from coupling_law import agree, feeds_for, graph, holds, some, widths

from hasten.core.errors import MethodError
from hasten.graph.coupling import couple, mask, prepare, shrink
from hasten.graph.coupling.cost import Costs, Counts, Sizes
from hasten.graph.shapes import observed_shapes

IMAGE = "(float[n,3,8,8] x)"
OUT = "(float[n,a,b,c] y)"


def reasons(made) -> dict[str, str]:
    return {skip.name: skip.reason for skip in couple(prepare(made)).fixed}


def test_a_width_keeps_something():
    made = prepare(
        graph(f"{IMAGE} => {OUT} {{ a = Conv(x, w) y = Conv(a, u) }}", w=(6, 3, 1, 1), u=(2, 6, 1, 1))
    )
    coupling = couple(made)
    with pytest.raises(MethodError, match="Conv:a would lose all of its 6 channels"):
        shrink(made, coupling, coupling.widths[0].units.tolist())
    with pytest.raises(ValueError, match="no unit"):
        shrink(made, coupling, [0])
    assert shrink(made, coupling, []).fingerprint == made.fingerprint
    assert mask(made, coupling, []).fingerprint == made.fingerprint
    assert coupling.width("Conv:a") is coupling.widths[0]
    assert coupling.width("Conv:y") is None


STAYS = {
    "an operator without a rule": ("LRN<size=3>(a)", "LRN LRN:r has no rule"),
    "the domain of another": ("own.domain.Gelu(a)", "Gelu Gelu:r has no rule"),
    "a softmax over channels": ("Softmax<axis=1>(a)", "computed over it"),
    "a mean over channels": ("ReduceMean(a, one)", "is over it"),
    "a running sum over channels": ("CumSum(a, one)", "computed over it"),
    "every other channel": ("Slice(a, zero, far, one, two)", "every so many"),
    "reflected channels": ('Pad<mode="reflect">(a, around)', "pads it"),
    "entries that are looked up": ("Gather<axis=1>(a, table)", "looks entries up"),
    "entries that are looked up by pairs": ("GatherND(a, table)", "looks entries up"),
    "entries looked up in each sample": ("GatherND<batch_dims=1>(a, table)", "from sample to sample"),
    "axes that are mixed": ("Reshape(a, mixed)", "mixes its axes"),
    "axes that are mixed with samples": ("Reshape(a, folded)", "mixes its axes"),
    "a normalization over channels": ("LpNormalization<axis=1>(a)", "computed over it"),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_has_to_stay_and_why(case):
    node, reason = STAYS[case]
    made = graph(
        f"{IMAGE} => (float[n,3,8,8] seen, float y) {{ a = Conv(x, w) r = {node} y = ReduceMax<keepdims=0>(r)"
        " b = Conv(x, v) seen = Conv(b, u) }",
        w=(6, 3, 1, 1), v=(5, 3, 1, 1), u=(3, 5, 1, 1), one=np.array([1]), zero=np.array([0]),
        far=np.array([6]), two=np.array([2]), around=np.array([0, 1, 0, 0, 0, 1, 0, 0]),
        table=np.array([[0, 1], [2, 3]]), mixed=np.array([0, 16, 24]), folded=np.array([-1, 4, 6, 8]),
    )  # fmt: skip
    found = couple(prepare(made))
    assert widths(found) == {"Conv:b": 5}
    [why] = [skip.reason for skip in found.fixed if skip.name == "Conv:a"]
    assert reason in why


def test_samples_folded_into_channels_are_not_mistaken_for_them():
    """[n, 8, 4] → [2 n, 16]: the second axis has another meaning, whatever it is long."""
    made = graph(
        "(float[n,4,6] x) => (float[a,b] y) { a = MatMul(w, x) r = Reshape(a, to) y = MatMul(r, v) }",
        w=(8, 4), v=(8, 3), to=np.array([-1, 8]),
    )  # fmt: skip
    holds(made, {})


def test_two_computed_lengths_are_not_those_before():
    """[n, 4, s, 6] → [2 n, 4, s / 2, 6]: the channels lie elsewhere, though there are as many."""
    made = graph(
        "(float[n,3,s,6] x) => (float[m,5,k,6] y) { a = Conv(x, w) sh = Shape(x) n0 = Gather(sh, i0)"
        " s0 = Gather(sh, i2) n2 = Mul(n0, two) s2 = Div(s0, two) to = Concat<axis=0>(n2, four, s2, six)"
        " r = Reshape(a, to) y = Conv(r, v) }",
        w=(4, 3, 1, 1), v=(5, 4, 1, 1), i0=np.array([0]), i2=np.array([2]), two=np.array([2]),
        four=np.array([4]), six=np.array([6]),
    )  # fmt: skip
    coupling = holds(made, {}, free=4)
    assert any("mixes its axes" in skip.reason for skip in coupling.fixed if skip.name == "Conv:a")


NORMALIZED = {
    "tokens in place of channels": "n = InstanceNormalization(a, g, b)",
    "one group": "r = Reshape(a, to) i = InstanceNormalization(r, one, zero) n = Reshape(i, back)",
    "a batch of tokens": "n, m, v1 = BatchNormalization<training_mode=1>(a, g, b, b, g)",
}


@pytest.mark.parametrize("form", NORMALIZED)
def test_a_normalization_of_each_channel_is_over_its_positions(form):
    made = graph(
        f"(float[n,6,3] x) => (float[n,6,2] y) {{ a = MatMul(x, w) {NORMALIZED[form]} y = MatMul(n, v) }}",
        w=(3, 8), v=(8, 2), g=np.ones(6, np.float32), b=(6,), one=np.ones(1, np.float32),
        zero=np.zeros(1, np.float32), to=np.array([0, 1, -1]), back=np.array([-1, 6, 8]),
    )  # fmt: skip
    assert "normalizes over it" in reasons(made)["MatMul:a"]


STATISTICS = {
    "layer": "d, m = LayerNormalization<axis=-1>(a, g, b)",
    "batch": "d, m, v = BatchNormalization<training_mode=1>(a, g, b, b, g)",
}


@pytest.mark.parametrize("form", STATISTICS)
def test_statistics_that_are_outputs_of_their_own(form):
    made = graph(
        f"(float[n,3,8] x) => (float[n,c,e] y) {{ a = Conv(x, w) {STATISTICS[form]} c = Mul(a, m)"
        " y = Conv(c, u) }",
        w=(8, 3, 1), u=(2, 8, 1), g=np.ones(8, np.float32), b=(8,),
    )  # fmt: skip
    assert "also gives its statistics" in reasons(made)["Conv:a"]


def test_statistics_that_nothing_reads():
    made = graph(
        "(float[n,3,8] x) => (float[n,2,8] y) { a = Conv(x, w) d, m, s = LayerNormalization<axis=-1>(a, g, b)"
        " y = Conv(d, u) }",
        w=(6, 3, 1), u=(2, 6, 1), g=np.ones(8, np.float32), b=(8,),
    )  # fmt: skip
    holds(made, {"Conv:a": 6})


def test_parameters_of_a_normalization_that_another_layer_reads():
    made = graph(
        "(float[n,8] x) => (float[n,2] y) { d = LayerNormalization(x, g, b) a = MatMul(d, w) p = Add(a, b)"
        " y = MatMul(p, u) }",
        w=(8, 8), u=(8, 2), g=(8,), b=(8,),
    )  # fmt: skip
    holds(made, {})


def test_places_of_maxima_that_are_read():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) r, i = MaxPool<kernel_shape=[2,2]>(a) c = Cast<to=1>(i)"
        " b = Conv(r, u) d = Add(b, c) y = Conv(d, v) }",
        w=(6, 3, 1, 1), u=(6, 6, 1, 1), v=(2, 6, 1, 1),
    )  # fmt: skip
    found = reasons(made)
    assert all("numbers its entries" in found[name] for name in ("Conv:a", "Conv:b"))


def test_what_is_read_inside_a_branch():
    made = graph(
        """(float[n,3,8,8] x, bool which) => (float[n,a,b,c] y) {
          a = Conv(x, w) b = Conv(a, v)
          c = If(which) <then_branch = yes () => (float[n,a,b,c] p) { p = Relu(b) },
                         else_branch = no () => (float[n,a,b,c] q) { q = Conv(b, u) }>
          y = Conv(c, z) }""",
        w=(6, 3, 1, 1), v=(5, 6, 1, 1), u=(5, 5, 1, 1), z=(2, 5, 1, 1),
    )  # fmt: skip
    whole = prepare(made)
    coupling = couple(whole)
    assert widths(coupling) == {"Conv:a": 6}
    assert any("loop or branch" in skip.reason for skip in coupling.fixed if skip.name == "Conv:b")
    feeds = {"x": feeds_for(whole)["x"], "which": np.array(False)}
    agree(whole, coupling, some(coupling, 1), feeds)
    agree(whole, coupling, some(coupling, 2), feeds | {"which": np.array(True)})


def test_a_number_of_channels_that_is_read():
    made = graph(
        f"{IMAGE} => (float[n,k] y) {{ a = Conv(x, w) s = Shape<start=1, end=2>(a) f = Cast<to=1>(s)"
        " g = GlobalAveragePool(a) e = Flatten(g) d = Div(e, f) y = Gemm(d, v) }",
        w=(6, 3, 1, 1), v=(6, 2),
    )  # fmt: skip
    assert "reads its length" in reasons(made)["Conv:a"]


def test_a_shape_that_is_an_output():
    made = graph(
        f"{IMAGE} => ({OUT[1:-1]}, int64[4] s) {{ a = Conv(x, w) s = Shape(a) y = Conv(a, v) }}",
        w=(6, 3, 1, 1), v=(2, 6, 1, 1),
    )  # fmt: skip
    assert "reads its length" in reasons(made)["Conv:a"]


def test_a_shape_that_meets_channels():
    """It has four entries as the product has, of which none can go."""
    made = graph(
        "(float[n,3] x, float[n,a,b,c] z) => (float[n,k] y) { a = MatMul(x, w) s = Shape(z) f = Cast<to=1>(s)"
        " p = Add(a, f) y = MatMul(p, v) }",
        w=(3, 4), v=(4, 2),
    )  # fmt: skip
    assert "number for each axis" in reasons(made)["MatMul:a"]


def test_a_shape_of_which_only_other_lengths_are_read():
    made = graph(
        f"{IMAGE} => (float[n,k] y) {{ a = Conv(x, w) s = Shape(a) n0 = Gather(s, i0) n1 = Unsqueeze(n0, ax)"
        " to = Concat<axis=0>(n1, rest) f = Reshape(a, to) y = MatMul(f, v) }",
        w=(6, 3, 1, 1), v=(6 * 64, 2), i0=np.array(0), ax=np.array([0]), rest=np.array([6 * 64]),
    )  # fmt: skip
    holds(made, {"Conv:a": 6})


def test_one_computed_shape_serves_values_that_are_cut_differently():
    made = graph(
        "(float[n,t,12] x) => (float[n,t,k] y) { s = Shape<start=0, end=2>(x) to = Concat<axis=0>(s, six)"
        " a = MatMul(x, w) b = MatMul(x, v) c = Reshape(a, to) d = Reshape(b, to) e = MatMul(c, u)"
        " f = MatMul(d, z) y = Add(e, f) }",
        w=(12, 6), v=(12, 6), u=(6, 3), z=(6, 3), six=np.array([6]),
    )  # fmt: skip
    holds(made, {"MatMul:a": 6, "MatMul:b": 6})


def test_a_shape_from_elsewhere_keeps_all():
    made = graph(
        "(float[n,t,12] x, int64[3] to) => (float[n,t,k] y) { a = MatMul(x, w) c = Reshape(a, to)"
        " y = MatMul(c, u) }",
        w=(12, 6), u=(6, 3),
    )  # fmt: skip
    assert widths(couple(prepare(made))) == {}


def test_repeated_entries_stay_and_others_are_repeated_as_often():
    made = graph(
        "(float[n,1,12] x) => (float[n,t,k] y) { a = MatMul(x, w) s = Shape<start=0, end=1>(x)"
        " to = Concat<axis=0>(s, tail) c = Expand(a, to) y = MatMul(c, u) }",
        w=(12, 6), u=(6, 3), tail=np.array([4, 6]),
    )  # fmt: skip
    holds(made, {"MatMul:a": 6})


def test_contracted_values_that_are_never_zero_stay():
    """Keys and queries behind functions that are not zero at zero: their products miss what is removed."""
    made = graph(
        "(float[n,t,12] x) => (float[n,t,s] y) { q = MatMul(x, wq) k = MatMul(x, wk) e = Exp(q) f = Exp(k)"
        " g = Transpose<perm=[0,2,1]>(f) y = MatMul(e, g) }",
        wq=(12, 6), wk=(12, 6),
    )  # fmt: skip
    assert "never zero" in reasons(made)["MatMul:q"]


CROPPED = 'Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize"'
ALIVE = {
    "a sum with numbers by position": "f = Add(a, places)",
    "a difference from numbers by position": "f = Sub(places, a)",
    "one number for all": "f = Add(a, half)",
    "a zero point": "q = QuantizeLinear(a, half, point) f = Cast<to=1>(q)",
    "another zero point": "q = QuantizeLinear(a, half, point) f = DequantizeLinear(q, half, other)",
    "a threshold below zero": "f = Shrink<lambd=-0.5, bias=0.25>(a)",
    "a number outside of pictures": f"f = {CROPPED}, extrapolation_value=0.5>(a, box, , size)",
}
DEAD = {
    "a number for each channel": "f = Add(a, each)",
    "a product with numbers by position": "f = Mul(a, places)",
    "quantized and back": "q = QuantizeLinear(a, half, point) f = DequantizeLinear(q, half, point)",
    "a threshold": "f = Shrink<lambd=0.5, bias=0.25>(a)",
    "nothing outside of pictures": f"f = {CROPPED}>(a, box, , size)",
}


@pytest.mark.parametrize("case", [*ALIVE, *DEAD])
def test_a_product_over_channels_needs_them_zero_where_they_are_removed(case):
    made = graph(
        f"(float[2,3,4,4] x) => (float[2,16,16] y) {{ a = Conv(x, w, b) {({**ALIVE, **DEAD})[case]}"
        " r = Reshape(f, to) t = Transpose<perm=[0,2,1]>(r) y = MatMul(t, r) }",
        w=(6, 3, 1, 1), b=(6,), places=(4, 4), each=(6, 1, 1), half=np.float32(0.5), point=np.uint8(128),
        other=np.uint8(127), to=np.array([0, 6, 16]), size=np.array([2, 6, 4, 4]),
        box=np.float32([0, 0, 0, 0, 1, 1, 2, 2]),
    )  # fmt: skip
    coupling = holds(made, {"Conv:a": 6} if case in DEAD else {})
    assert all("never zero" in skip.reason for skip in coupling.fixed)


@pytest.mark.parametrize(("bias", "left"), [("", {"MatMul:a": 6}), (", b", {})])
def test_rows_to_which_a_bias_is_added_are_never_zero(bias, left):
    made = graph(
        f"(float[5,3] x) => (float[4,4] y) {{ a = MatMul(x, w) t = Transpose(a) g = Gemm(t, u{bias})"
        " s = Transpose(g) y = MatMul(s, g) }",
        w=(3, 6), u=(5, 4), b=(4,),
    )  # fmt: skip
    holds(made, left)


WEIGHTS = {
    "given": ("float[6,3,1,1] w, float[6,5] v", "", "Conv:a is an input, which may be given"),
    "quantized": ("", "w = DequantizeLinear(wq, s) v = DequantizeLinear(vq, s)", "Conv:a is computed"),
}


@pytest.mark.parametrize("form", WEIGHTS)
def test_weights_that_are_stored_and_no_constants(form):
    inputs, made, reason = WEIGHTS[form]
    stored = {"wq": np.ones((6, 3, 1, 1), np.int8), "vq": np.ones((6, 5), np.int8), "s": np.float32(0.5)}
    tested = graph(
        f"(float[2,6,5,5] x{', ' * bool(inputs)}{inputs}) => {OUT} {{ {made} g = Conv(x, u) a = Conv(g, w)"
        " t = Transpose<perm=[0,2,3,1]>(a) m = MatMul(t, v) y = Relu(m) }",
        u=(3, 6, 1, 1), **(stored if form == "quantized" else {"w": (6, 3, 1, 1), "v": (6, 5)}),
    )  # fmt: skip
    found = reasons(tested)
    assert reason in found["Conv:a"]
    assert "the weight of MatMul" in found["MatMul:m"]


def test_a_model_without_layers_has_no_widths():
    coupling = holds(graph("(float[n,3] x) => (float[n,3] y) { y = Relu(x) }"), {})
    assert coupling.fixed == ()


def test_what_a_width_touches_and_what_it_saves():
    made = prepare(
        graph(
            f"{IMAGE} => {OUT} {{ a = Conv(x, w) b = Conv(a, v) y = Conv(b, u) }}",
            w=(6, 3, 1, 1), v=(5, 6, 1, 1), u=(2, 5, 1, 1),
        )
    )  # fmt: skip
    coupling = couple(made)
    costs = Costs(made, coupling, observed_shapes(made, feeds_for(made, free=1)))
    assert costs.whole == {"Conv:a": 64 * 18, "Conv:b": 64 * 30, "Conv:y": 64 * 10}
    first, second = coupling.widths
    assert costs.touched(first) == {"Conv:a", "Conv:b"}
    gone = np.zeros(coupling.count, dtype=bool)
    gone[[first.units[0], *second.units[:2]]] = True
    assert costs.of(gone) == {"Conv:a": 64 * 15, "Conv:b": 64 * 15, "Conv:y": 64 * 6}
    assert costs.of(gone, frozenset({"Conv:y"})) == {"Conv:y": 64 * 6}
    timed = Costs(
        made, coupling, observed_shapes(made, feeds_for(made, free=1)), {"Conv:a": 9.0, "Conv:y": 5.0}
    )
    assert timed.whole == pytest.approx({"Conv:a": 9.0, "Conv:b": 15.0, "Conv:y": 5.0}, rel=0.05)
    assert timed.of(gone) == pytest.approx({"Conv:a": 7.5, "Conv:b": 7.5, "Conv:y": 3.0}, rel=0.1)
    assert timed.touched(first) == {"Conv:a", "Conv:b"}
    # At a quarter of its work the first takes as long as ever, the last a third: 1.0 + 4.0 / 4.
    narrower = {"Conv:a": (9.0, 9.0, 0.25, 0.5), "Conv:y": (5.0, 2.0, 0.25, 0.25)}
    stays = Costs(made, coupling, observed_shapes(made, feeds_for(made, free=1)), narrower)
    assert (stays.whole["Conv:a"], stays.of(gone)["Conv:a"]) == (9.0, 9.0)
    assert stays.whole["Conv:y"] == pytest.approx(5.0)
    assert 1.0 + 4.0 * 6 / 10 <= stays.of(gone)["Conv:y"] < 4.5
    assert stays.touched(first) == {"Conv:b"}
    counts = Counts(coupling.widths)
    assert counts.whole == {"Conv:a": 6, "Conv:b": 5}
    assert counts.of(gone) == {"Conv:a": 5, "Conv:b": 3}
    assert counts.touched(first) == {"Conv:a"}
    assert Counts([second]).whole == {"Conv:b": 5}
    sizes = Sizes(made, coupling)
    assert sizes.whole == {"w": 18, "v": 30, "u": 10}
    assert sizes.of(gone) == {"w": 15, "v": 15, "u": 6}
    assert sizes.of(gone, {"u"}) == {"u": 6}
    assert sizes.touched(first) == {"w", "v"}
