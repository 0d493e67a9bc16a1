"""equalize: which channels are scaled through what, that nothing else changes, and what stays as it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from small_graphs import Net, attention, calibration_for, conv_net, feeds_of

from hasten import methods
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

FLOAT = TensorProto.FLOAT
C, SIDE = 8, 6


class Uneven(Net):
    """Weights whose channels differ by orders of magnitude."""

    def matrix(self, name: str, *shape: int) -> str:
        array = self.rng.normal(size=shape)
        for axis in (0, 1):
            size = [1] * len(shape)
            size[axis] = shape[axis]
            array = array * np.exp(self.rng.normal(size=size))
        return self.constant(name, (array / np.abs(array).max()).astype(np.float32))

    def conv(self, x: str, y: str, inputs: int = C, outputs: int = C, group: int = 1, kernel: int = 3) -> str:
        w = self.matrix(f"{y}.w", outputs, inputs // group, kernel, kernel)
        pads = [kernel // 2] * 4
        return self.node("Conv", [x, w, self.weight(f"{y}.b", outputs)], y, group=group, pads=pads)

    def gemm(self, x: str, y: str, inputs: int, outputs: int = 5) -> str:
        return self.node(
            "Gemm", [x, self.matrix(f"{y}.w", inputs, outputs), self.weight(f"{y}.b", outputs)], y
        )

    def product(self, x: str, y: str, inputs: int = C, outputs: int = C) -> str:
        return self.node("MatMul", [x, self.matrix(f"{y}.w", inputs, outputs)], y)

    def picture(self, output: str, rank: int = 4) -> Graph:
        return self.graph([("x", FLOAT, ["n", C, SIDE, SIDE])], [(output, FLOAT, [None] * rank)])

    def tokens(self, *outputs: str) -> Graph:
        return self.graph([("x", FLOAT, ["n", "t", C])], [(name, FLOAT, [None] * 3) for name in outputs])


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


def pointwise(op_type: str, net: Uneven, **attributes: object) -> Graph:
    x = net.node(op_type, [net.conv("x", "first")], "mid", **attributes)
    net.conv(x, "second", group=C)
    return net.picture("second")


def prelu(net: Uneven) -> Graph:
    x = net.node("PRelu", [net.conv("x", "first"), net.constant("slope", np.float32([0.3]))], "mid")
    net.conv(x, "second", group=2, outputs=4)
    return net.picture("second")


def unbounded(net: Uneven) -> Graph:
    x = net.node("Clip", [net.conv("x", "first"), net.constant("low", np.float32(0))], "mid")
    net.conv(x, "second")
    return net.picture("second")


def pooled(net: Uneven) -> Graph:
    x = net.node("MaxPool", [net.conv("x", "first", group=2)], "p1", kernel_shape=[2, 2])
    x = net.node("AveragePool", [net.node("Relu", [x], "r1")], "p2", kernel_shape=[2, 2])
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "g")], "f")
    net.gemm(x, "second", C)
    return net.picture("second", 2)


def flattened(net: Uneven) -> Graph:
    x = net.node("Reshape", [net.conv("x", "first"), net.constant("to", np.array([0, -1]))], "f")
    net.gemm(x, "second", C * SIDE * SIDE)
    return net.picture("second", 2)


def mean(net: Uneven) -> Graph:
    axes = net.constant("axes", np.array([2, 3]))
    x = net.node("ReduceMean", [net.conv("x", "first"), axes], "m", keepdims=0)
    net.gemm(x, "second", C)
    return net.picture("second", 2)


def image_to_tokens(net: Uneven) -> Graph:
    x = net.node("Reshape", [net.conv("x", "first"), net.constant("to", np.array([0, C, -1]))], "f")
    net.product(net.node("Transpose", [x], "t", perm=[0, 2, 1]), "second")
    return net.picture("second", 3)


def with_bias(net: Uneven) -> Graph:
    x = net.node("Add", [net.product("x", "first"), net.weight("bias", C)], "biased")
    x = net.node("Mul", [net.node("Relu", [x], "r"), net.weight("gain", C)], "gained")
    net.product(x, "second")
    return net.tokens("second")


def scalar_bias(net: Uneven) -> Graph:
    x = net.node("Sub", [net.conv("x", "first"), net.constant("half", np.float32(0.5))], "less")
    net.conv(net.node("Max", [x, "half"], "more"), "second")
    return net.picture("second")


def residual(net: Uneven) -> Graph:
    x = net.node("Relu", [net.conv("x", "first")], "r1")
    for i in range(2):
        y = net.conv(net.node("Relu", [net.conv(x, f"a{i}")], f"ra{i}"), f"b{i}")
        x = net.node("Relu", [net.node("Add", [y, x], f"s{i}")], f"rs{i}")
    net.conv(x, "second")
    return net.picture("second")


def padded_shortcut(net: Uneven) -> Graph:
    x = net.node("Relu", [net.conv("x", "first")], "r1")
    wide = net.node("Pad", [x, net.constant("amounts", np.array([0, 4, 0, 0, 0, 4, 0, 0]))], "pad")
    x = net.node("Add", [wide, net.conv(x, "a", outputs=2 * C)], "sum")
    net.conv(x, "second", inputs=2 * C)
    return net.picture("second")


def side_by_side(net: Uneven) -> Graph:
    x = net.node("Concat", [net.conv("x", "first"), "x", net.conv("x", "other", outputs=4)], "j", axis=1)
    net.conv(net.node("Relu", [x], "r"), "second", inputs=2 * C + 4)
    return net.picture("second")


def parted(net: Uneven) -> Graph:
    a = net.node("Split", [net.conv("x", "first")], "a", "b", axis=1, num_outputs=2)
    net.node("Concat", [net.conv(a, "second", inputs=4), net.conv("b", "third", inputs=4)], "y", axis=1)
    return net.picture("y")


def batch_norm(net: Uneven) -> Graph:
    names = [net.constant(n, net.rng.uniform(0.5, 2, C).astype(np.float32)) for n in ("g", "b", "m", "v")]
    x = net.node("BatchNormalization", [net.conv("x", "first"), *names], "bn")
    x = net.node("BatchNormalization", [net.node("Sigmoid", [net.conv(x, "mid")], "sig"), *names], "bn2")
    net.conv(x, "second")
    return net.picture("second")


def transposed(net: Uneven) -> Graph:
    x = net.node("ConvTranspose", ["x", net.matrix("first.w", C, 3, 2, 2)], "first", group=2, strides=[2, 2])
    sizes = net.constant("scales", np.float32([1, 1, 2, 2]))
    x = net.node("Resize", [x, "", sizes], "big", mode="linear")
    net.node("ConvTranspose", [x, net.matrix("second.w", 6, 2, 2, 2)], "second", group=3)
    return net.picture("second")


def normalized(net: Uneven) -> Graph:
    x = net.node("LayerNormalization", ["x", net.weight("g", C), net.weight("b", C)], "first")
    net.node("Add", [net.product(x, "second"), net.product(x, "third")], "y")
    return net.tokens("y")


def spelled_norm(net: Uneven) -> Graph:
    axes = net.constant("axes", np.array([-1]))
    centred = net.node("Sub", ["x", net.node("ReduceMean", ["x", axes], "mean")], "centred")
    x = net.node("Mul", [centred, net.weight("g", C)], "first")
    net.product(net.node("Add", [x, net.weight("b", C)], "more"), "second")
    return net.tokens("second")


def attention_value(net: Uneven) -> Graph:
    net.constant("split", np.array([0, 0, 2, C // 2]))

    def part(name: str, perm: list[int]) -> str:
        apart = net.node("Reshape", [net.product("x", name), "split"], f"{name}.apart")
        return net.node("Transpose", [apart], f"{name}.heads", perm=perm)

    q, k, v = part("q", [0, 2, 1, 3]), part("k", [0, 2, 3, 1]), part("first", [0, 2, 1, 3])
    p = net.node("Softmax", [net.node("MatMul", [q, k], "scores")], "p", axis=-1)
    mixed = net.node("Transpose", [net.node("MatMul", [p, v], "mixed")], "back", perm=[0, 2, 1, 3])
    joined = net.node("Reshape", [mixed, net.constant("join", np.array([0, 0, C]))], "joined")
    net.product(joined, "second")
    return net.tokens("second")


def shared(net: Uneven) -> Graph:
    """Both uses of a weight agree: between two layers each, all of the same channels."""
    x = net.product(net.node("Relu", [net.product("x", "first")], "r1"), "second")
    net.node(
        "MatMul", [net.node("Relu", [net.node("MatMul", ["x", "first.w"], "again")], "r2"), "second.w"], "y"
    )
    return net.tokens(x, "y")


PATTERNS = {
    **{name: partial(pointwise, name) for name in ("Relu", "LeakyRelu", "Identity", "Dropout", "Abs", "Neg")},
    "nothing": lambda net: (net.conv(net.conv("x", "first"), "second"), net.picture("second"))[1],
    "attention_value": attention_value,
    "batch_norm": batch_norm,
    "flattened": flattened,
    "image_to_tokens": image_to_tokens,
    "mean": mean,
    "normalized": normalized,
    "padded_shortcut": padded_shortcut,
    "parted": parted,
    "pooled": pooled,
    "prelu": prelu,
    "residual": residual,
    "scalar_bias": scalar_bias,
    "shared": shared,
    "side_by_side": side_by_side,
    "spelled_norm": spelled_norm,
    "transposed": transposed,
    "unbounded": unbounded,
    "with_bias": with_bias,
}


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
