"""Parallel convolutions of one value become one, exactly, and only where that is no more to compute."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasten import methods
from hasten.core.recipe import Recipe, Step
from hasten.graph.cost import total_macs
from hasten.graph.evaluate import Evaluator
from hasten.rewrites import fold_affine, merge_branches

from .proof import graph, normal, ops, proven, refused
from .sweep import swept

APPLY = swept(merge_branches.apply)
X = normal(2, 6, 9, 9, seed=1)
NORM = {
    "gamma": np.linspace(0.5, 2, 6, dtype=np.float32),
    "beta": normal(6, seed=2),
    "mean": normal(6, seed=3),
    "variance": np.linspace(0.3, 3, 6, dtype=np.float32),
}


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_block_of_repvgg_is_one_convolution(groups):
    made = graph(
        f"""(float[n,6,9,9] x) => (float[n,6,9,9] y) {{
          a = Conv<pads=[1,1,1,1], group={groups}>(x, w3, b3)
          b = Conv<group={groups}>(x, w1)
          c = BatchNormalization(x, gamma, beta, mean, variance)
          d = Add(a, b)
          y = Add(c, d) }}""",
        w3=normal(6, 6 // groups, 3, 3),
        b3=normal(6),
        w1=normal(6, 6 // groups, 1, 1, seed=4),
        **NORM,
    )
    proven(made, APPLY, x=X)
    assert ops(made) == {"Conv": 1}
    assert made.ir_model.graph[0].name == "n0"
    assert set(made.weights) == {"w3", "b3"}


def test_normalizations_behind_the_branches_fold_first():
    made = graph(
        """(float[n,6,9,9] x) => (float[n,6,5,5] y) {
          a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w3)
          e = BatchNormalization(a, gamma, beta, mean, variance)
          b = Conv<strides=[2,2]>(x, w1)
          f = BatchNormalization(b, gamma, beta, mean, variance)
          y = Add(e, f) }""",
        w3=normal(6, 6, 3, 3),
        w1=normal(6, 6, 1, 1),
        **NORM,
    )
    fold_affine.apply(made)
    proven(made, APPLY, x=X)
    assert ops(made) == {"Conv": 1}


def test_a_network_in_training_form_becomes_a_chain(tmp_path):
    text, x = "", "x"
    for i in range(3):
        text += f"""a{i} = Conv<pads=[1,1,1,1]>({x}, w3)
          d{i} = BatchNormalization(a{i}, gamma, beta, mean, variance)
          b{i} = Conv({x}, w1) e{i} = BatchNormalization(b{i}, gamma, beta, mean, variance)
          c{i} = BatchNormalization({x}, gamma, beta, mean, variance)
          f{i} = Add(d{i}, e{i}) g{i} = Add(f{i}, c{i}) r{i} = Relu(g{i}) """
        x = f"r{i}"
    text = f"(float[n,6,9,9] x) => (float[n,6,9,9] y) {{ {text} y = Identity({x}) }}"
    weights = {"w3": normal(6, 6, 3, 3) / 6, "w1": normal(6, 6, 1, 1, seed=4) / 3}
    named = {}
    for i in range(3):  # each block has weights of its own
        text = text.replace("w3", f"u{i}", 1).replace("w1", f"v{i}", 1)
        named |= {f"u{i}": weights["w3"] * (i + 1), f"v{i}": weights["w1"]}
    made = graph(text, **named, **NORM)
    before = Evaluator(made, optimized=False).run({"x": X})["y"]
    context = methods.Context(calibration=None, work=tmp_path)
    after = methods.apply(Recipe([Step("optimize_graph")]), made, context).graph
    assert ops(after) == {"Conv": 3, "Relu": 3}
    found = Evaluator(after, optimized=False).run({"x": X})["y"]
    np.testing.assert_allclose(found, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_a_block_of_acnet_is_one_convolution():
    made = graph(
        """(float[n,6,9,9] x) => (float[n,4,9,9] y) {
          a = Conv<pads=[1,1,1,1]>(x, w33)
          b = Conv<pads=[0,1,0,1]>(x, w13)
          c = Conv<pads=[1,0,1,0]>(x, w31, b31)
          y = Sum(b, a, c) }""",
        w33=normal(4, 6, 3, 3),
        w13=normal(4, 6, 1, 3),
        w31=normal(4, 6, 3, 1),
        b31=normal(4),
    )
    proven(made, APPLY, x=X)
    assert ops(made) == {"Conv": 1}


@pytest.mark.parametrize("identity", ["x", "s", "t"])
def test_the_value_itself_scaled_or_not(identity):
    made = graph(
        f"""(float[n,6,9,9] x) => (float[n,6,9,9] y) {{
          a = Conv<pads=[2,2,2,2], dilations=[2,2], group=6>(x, w)
          {"s = Mul(x, scale)" if identity == "s" else "t = Sub(x, term)" if identity == "t" else ""}
          y = Add({identity}, a) }}""",
        w=normal(6, 1, 3, 3),
        scale=normal(6, 1, 1),
        term=np.float32(0.3),
    )
    proven(made, APPLY, x=X)
    assert ops(made) == {"Conv": 1}


BRANCH = st.fixed_dictionaries(
    {
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "pads": st.lists(st.integers(0, 2), min_size=4, max_size=4),
        "stride": st.sampled_from([1, 1, 1, 2]),
        "dilation": st.sampled_from([1, 1, 2]),
        "groups": st.sampled_from([1, 1, 2]),
        "bias": st.booleans(),
    }
)


@settings(deadline=None, max_examples=150)
@given(BRANCH, BRANCH, st.booleans())
def test_two_convolutions_are_one_or_stay(first, second, alike):
    if alike:  # the same places: pads that make up for the reach
        for name in ("stride", "groups", "dilation"):
            second = {**second, name: first[name]}
        for branch in (first, second):
            reach = [first["dilation"] * (k - 1) for k in branch["kernel"]]
            branch["pads"] = [r // 2 for r in reach] + [r - r // 2 for r in reach]
    text, weights = "", {}
    for i, branch in enumerate((first, second)):
        window = f"strides=[{branch['stride']},1], pads={branch['pads']}, group={branch['groups']}"
        window += f", dilations=[{branch['dilation']},{branch['dilation']}]"
        weights[f"w{i}"] = normal(4, 6 // branch["groups"], *branch["kernel"], seed=i)
        weights[f"b{i}"] = normal(4, seed=9 + i)
        text += f"v{i} = Conv<{window}>(x, w{i}{f', b{i}' if branch['bias'] else ''}) "
    made = graph(f"(float[n,6,9,9] x) => (float[n,4,p,q] y) {{ {text} y = Add(v0, v1) }}", **weights)
    changed = made.copy()
    if not APPLY(changed).sites:
        refused(made, merge_branches.apply)
        return
    before = total_macs(made, {"x": X})
    proven(made, APPLY, x=X)
    assert ops(made) == {"Conv": 1}
    assert total_macs(made, {"x": X}) <= before


BOTH = "(float[n,6,9,9] x) => (float[n,4,9,9] y%s) { a = Conv<pads=[1,1,1,1]>(x, w) %s }"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[n,6,9,9] x) => (float[n,4,9,9] y) { a = Conv<pads=[0,1,0,1]>(x, w13)"
         " b = Conv<pads=[1,0,1,0]>(x, w31) y = Add(a, b) }", "more multiply-accumulates"),
        (BOTH % ("", "b = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, v) y = Add(a, b)"), "one grid"),
        (BOTH % ("", "b = Conv(x, w9) y = Add(a, b)"), "positions"),
        (BOTH % ("", "b = Conv<pads=[1,1,1,1], group=2>(x, g) y = Add(a, b)"), "groups"),
        (BOTH % (", float[n,4,9,9] b", "b = Conv(x, w1) y = Add(a, b)"), None),
        (BOTH % (", float[n,4,9,9] z", "b = Conv(x, w1) y = Add(a, b) z = Relu(a)"), None),
        (BOTH % ("", "r = Relu(x) b = Conv(r, w1) y = Add(a, b)"), None),
        (BOTH % ("", "b = Conv<auto_pad=\"SAME_UPPER\">(x, v) y = Add(a, b)"), None),
        ("(float[n,6,9,9] x) => (float[n,6,9,9] y) { a = Conv<pads=[1,1,1,1]>(x, s) b = Relu(x)"
         " y = Add(a, b) }", None),
    ],
)  # fmt: skip
def test_what_differs_stays(text, reason):
    shapes = {"w": (4, 6, 3, 3), "v": (4, 6, 3, 3), "w1": (4, 6, 1, 1), "g": (4, 3, 3, 3), "s": (6, 6, 3, 3)}
    shapes |= {"w13": (4, 6, 1, 3), "w31": (4, 6, 3, 1), "w9": (4, 6, 9, 9)}
    made = graph(text, **{name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())})
    skipped = refused(made, merge_branches.apply).skipped
    assert [reason in skip.reason for skip in skipped] == ([True] if reason else [])
    assert Evaluator(made).run({"x": X})
