"""equalize: which channels are scaled through what, that nothing else changes, and what stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from small_graphs import attention, calibration_for, conv_net, feeds_of
from uneven_nets import FLOAT, PATTERNS, C, Uneven, pointwise, residual

from hasten import methods
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

ROOT = Path(__file__).parents[2]


def run(graph: Graph, tmp_path: Path, **params: object) -> methods.Change:
    data = calibration_for(graph, tmp_path / f"store-{id(graph)}-{len(params)}")
    return methods.apply(
        Recipe([Step("equalize", params)]), graph, methods.Context(calibration=data, work=tmp_path)
    )


def agree(graph: Graph, changed: Graph) -> None:
    """The same nodes, wired alike, and the same outputs."""
    before, after = (g.ir_model.graph for g in (graph, changed))
    assert [(n.name, n.op_type) for n in before] == [(n.name, n.op_type) for n in after]
    feeds = feeds_of(graph)
    found = Evaluator(changed, optimized=False).run(feeds)
    for name, wanted in Evaluator(graph, optimized=False).run(feeds).items():
        size = np.abs(wanted).max()
        assert size > 0
        # some ten layers of sums of up to 2^9 float32 products: √10·√2^9 roundoffs, four times over
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=2.0**-24 * 300 * size)


@pytest.mark.parametrize("by", ["weights", "activations"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_function_stays_and_both_sides_change(pattern, by, tmp_path):
    graph = PATTERNS[pattern](Uneven(3))
    change = run(graph, tmp_path, by=by, strength=0.5, residuals=True)
    changed = {site.name.partition("_")[2] for site in change.sites}
    assert {"first", "second"} <= changed
    agree(graph, change.graph)


@pytest.mark.parametrize("make", [conv_net, attention])
def test_whole_nets_stay_what_they_are(make, tmp_path):
    graph = make()
    for params in ({}, {"by": "activations"}, {"residuals": True}):
        agree(graph, run(graph, tmp_path, **params).graph)


def test_a_real_model_stays_what_it_is(tmp_path):
    graph = methods.apply(
        Recipe([Step("optimize_graph")]),
        Graph.open(ROOT / "examples" / "fashion_mnist" / "model.onnx"),
        methods.Context(calibration=None, work=tmp_path),
    ).graph
    for params in ({"residuals": True}, {"by": "activations"}):
        change = run(graph, tmp_path, **params)
        assert change.effective
        agree(graph, change.graph)


CHAIN = st.lists(
    st.sampled_from(
        ["conv", "depthwise", "grouped", "Relu", "LeakyRelu", "Sigmoid", "pool", "sum", "bias", "join"]
    ),
    min_size=2,
    max_size=9,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHAIN, st.integers(0, 99))
def test_chains_of_anything_stay_what_they_are(tmp_path, chain, seed):
    net = Uneven(seed)
    values = ["x"]
    for i, kind in enumerate(chain):
        x, y, back = values[-1], f"v{i}", values[net.rng.integers(len(values))]
        if kind in {"conv", "depthwise", "grouped"}:
            values.append(net.conv(x, y, group={"conv": 1, "depthwise": C, "grouped": 2}[kind]))
        elif kind == "pool":
            values.append(net.node("MaxPool", [x], y, kernel_shape=[3, 3], pads=[1] * 4))
        elif kind == "sum":
            values.append(net.node("Add", [x, back], y))
        elif kind == "bias":
            values.append(
                net.node(
                    "Add", [net.constant(f"{y}.c", net.rng.normal(size=(C, 1, 1)).astype(np.float32)), x], y
                )
            )
        elif kind == "join":
            values.append(net.conv(net.node("Concat", [x, back], f"{y}.j", axis=1), y, inputs=2 * C))
        else:
            values.append(net.node(kind, [x], y))
    graph = net.picture(net.conv(values[-1], "last"))
    context = methods.Context(calibration=None, work=tmp_path)
    change = methods.apply(Recipe([Step("equalize", {"residuals": bool(seed % 2)})]), graph, context)
    assert not any("undone" in skip.reason for skip in change.skipped)
    agree(graph, change.graph)


def reasons(change: methods.Change) -> dict[str, str]:
    return {skip.name: skip.reason for skip in change.skipped}


def left(net: Uneven, graph: Graph, tmp_path: Path, **params: object) -> str:
    """Why the layer ``first`` stays; nothing may have changed."""
    change = run(graph, tmp_path, **params)
    assert not change.effective
    assert change.graph.fingerprint == graph.fingerprint
    return next(reason for name, reason in reasons(change).items() if name.endswith("_first"))


@pytest.mark.parametrize("op_type", ["Sigmoid", "Tanh", "HardSwish", "Gelu", "Exp"])
def test_functions_that_are_not_homogeneous_end_it(op_type, tmp_path):
    net = Uneven(1)
    assert f"{op_type}_mid" in left(net, pointwise(op_type, net), tmp_path)


def test_a_bound_is_the_same_for_all_channels(tmp_path):
    net = Uneven(1)
    bounds = [net.constant("low", np.float32(0)), net.constant("high", np.float32(6))]
    net.conv(net.node("Clip", [net.conv("x", "first"), *bounds], "mid"), "second")
    assert "one bound" in left(net, net.picture("second"), tmp_path)


def test_sums_are_left_unless_asked_for(tmp_path):
    graph = residual(Uneven(1))
    assert "residuals" in reasons(run(graph, tmp_path))["Conv_first"]
    assert "Conv_first" not in reasons(run(graph, tmp_path, residuals=True))


def test_a_residual_that_is_normalized_stays(tmp_path):
    net = Uneven(1)
    x = net.node("LayerNormalization", ["x", net.weight("g", C), net.weight("b", C)], "first")
    y = net.node("Add", [x, net.product(x, "second")], "sum")
    net.node("LayerNormalization", [y, "g", "b"], "last")
    assert "LayerNormalization_last" in left(net, net.tokens("last"), tmp_path, residuals=True)


def test_an_output_stays(tmp_path):
    net = Uneven(1)
    net.product(net.product("x", "first"), "second")
    assert "output of the graph" in left(net, net.tokens("second", "first"), tmp_path)


def test_a_weight_that_is_also_looked_up_stays(tmp_path):
    net = Uneven(1)
    net.product(net.node("Relu", [net.product("x", "first")], "mid"), "second")
    rows = net.node("Gather", ["second.w", net.constant("i", np.array([0]))], "rows")
    net.node("Add", ["second", rows], "y")
    assert "second.w" in left(net, net.tokens("y"), tmp_path)


def test_a_value_read_in_a_branch_stays(tmp_path):
    net = Uneven(1)
    net.product(net.product("x", "first"), "second")
    out = helper.make_tensor_value_info("inside", FLOAT, None)
    body = helper.make_graph([helper.make_node("Identity", ["first"], ["inside"])], "body", [], [out])
    net.node("If", [net.constant("yes", np.array(True))], "y", then_branch=body, else_branch=body)
    assert "loop or branch" in left(net, net.tokens("second", "y"), tmp_path)


def test_a_weight_that_is_not_finite_stays(tmp_path):
    net = Uneven(1)
    net.node(
        "MatMul", [net.product("x", "first"), net.constant("w", np.full((C, C), np.inf, np.float32))], "y"
    )
    assert "not a float constant" in left(net, net.tokens("y"), tmp_path)


def test_weights_even_out_what_one_scale_would_lose(tmp_path):
    graph = pointwise("Relu", Uneven(5))
    even = run(graph, tmp_path).graph
    first, second = (even.weights[f"{name}.w"].const_value.numpy() for name in ("first", "second"))
    made, read = np.abs(first).max(axis=(1, 2, 3)), np.abs(second).max(axis=(1, 2, 3))
    np.testing.assert_allclose(made / read, np.median(made / read), rtol=0.03)
    params = {"per_channel": False, "reduce_range": False}
    context = methods.Context(calibration=calibration_for(graph, tmp_path / "q"), work=tmp_path)
    feeds, errors, placed = feeds_of(graph), [], []
    for start in (graph, even):
        change = methods.apply(Recipe([Step("quantize_static", params)]), start, context)
        wanted = Evaluator(graph).run(feeds)["second"]
        errors.append(np.square(Evaluator(change.graph).run(feeds)["second"] - wanted).mean())
        placed.append([(node.name, node.op_type) for node in change.graph.ir_model.graph])
    assert placed[0] == placed[1]
    assert errors[1] < 0.6 * errors[0]


def test_a_second_time_changes_nothing(tmp_path):
    once = run(pointwise("Relu", Uneven(5)), tmp_path)
    assert once.effective
    again = run(once.graph, tmp_path)
    assert not again.effective
    assert all(reason for reason in reasons(again).values())


def test_outliers_of_activations_need_samples_and_shrink(tmp_path):
    net = Uneven(2)
    gain = np.ones(C, np.float32)
    gain[3] = 60
    x = net.node("LayerNormalization", ["x", net.constant("g", gain), net.weight("b", C)], "first")
    net.node("MatMul", [x, net.weight("w", C, C)], "second")
    graph = net.tokens("second")
    with pytest.raises(MethodError, match="--data"):
        methods.find("equalize").apply(
            graph,
            methods.parameters(Step("equalize", {"by": "activations"})),
            methods.Context(calibration=None, work=tmp_path),
        )
    change = run(graph, tmp_path, by="activations")
    agree(graph, change.graph)
    scaled = change.graph.weights["g"].const_value.numpy()
    assert scaled.max() / np.median(scaled) < 0.3 * 60


def test_unknown_names_to_exclude_are_told(tmp_path):
    change = run(pointwise("Relu", Uneven(5)), tmp_path, exclude=["no such layer"])
    assert change.notes == ("exclude names nothing in the graph: no such layer",)
