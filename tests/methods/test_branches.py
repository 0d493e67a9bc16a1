"""prune_layers: which branches are found, and why others stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from branch_nets import DROPPABLE, residual_net, transformer
from onnx import TensorProto
from small_graphs import GRAPHS, Net, calibration_for, feeds_of

from hasten import methods
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.evaluate import Evaluator
from hasten.methods._branches.channels import channels_of


@pytest.fixture
def context(tmp_path):
    return lambda graph, count=16: methods.Context(
        calibration=calibration_for(graph, tmp_path / f"store-{count}", count), work=tmp_path, original=graph
    )


def pruned(graph, context, **params):
    return methods.apply(Recipe([Step("prune_layers", params)]), graph, context)


def assert_same(graph, other, seed=7):
    feeds = feeds_of(graph, seed=seed)
    wanted, found = Evaluator(graph).run(feeds), Evaluator(other).run(feeds)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4)


def test_a_skip_that_is_no_identity_keeps_its_block(context):
    graph = residual_net()
    change = pruned(graph, context(graph), ratio=1.0)
    reasons = {skip.name: skip.reason for skip in change.skipped}
    assert reasons == {"Add_half.sum": "its skip is not the identity: on it lies Conv"}
    assert {site.name for site in change.sites} == DROPPABLE["residual"]
    assert "branch one.0: 3 nodes" in change.sites[0].what
    assert sum(n.op_type == "Conv" for n in change.graph.ir_model.graph) == 4


def test_what_is_read_elsewhere_stays_and_what_is_broadcast_is_no_skip(context):
    net = Net()
    y = net.node("MatMul", ["x", net.weight("w1", 8, 8)], "given")
    a = net.node("Add", ["x", y], "first")
    row = net.node("ReduceMean", [a, net.constant("axes", np.array([1]))], "row", keepdims=1)
    wide = net.node("Mul", [net.node("MatMul", [row, net.weight("w2", 8, 8)], "m2"), "x"], "wide")
    net.node("Add", [row, wide], "second")
    shape = ["n", 4, 8]
    graph = net.graph(
        [("x", TensorProto.FLOAT, shape)],
        [("second", TensorProto.FLOAT, shape), ("given", TensorProto.FLOAT, shape)],
    )
    change = pruned(graph, context(graph), ratio=1.0)
    assert not change.effective
    assert {skip.name: skip.reason for skip in change.skipped} == {
        "Add_first": "what its branch computes is read elsewhere too",
    }


def parallel_net():
    """A layer whose attention and feed-forward branches read the same value and are added first."""
    net = Net(4)
    x = net.node("MatMul", ["x", net.weight("w0", 8, 8)], "h")
    normed = net.node("Tanh", [x], "t")
    one = net.node("MatMul", [normed, net.weight("w1", 8, 8)], "one")
    two = net.node("MatMul", [normed, net.weight("w2", 8, 8)], "two")
    both = net.node("Add", [one, two], "both")
    x = net.node("Add", [both, x], "y")
    net.node("MatMul", [x, net.weight("w3", 8, 8)], "out")
    shape = ["n", 8]
    return net.graph([("x", TensorProto.FLOAT, shape)], [("out", TensorProto.FLOAT, shape)])


@pytest.mark.parametrize("what", ["nothing", "mean", "affine"])
def test_parallel_branches_go_alone_and_together(what, context):
    graph = parallel_net()
    place = context(graph)
    kept = {}
    for dropped in (["MatMul_one"], ["MatMul_two"], ["MatMul_one", "MatMul_two"], ["Add_y"]):
        change = pruned(graph, place, drop=dropped, replace=what)
        assert {site.name for site in change.sites} == set(dropped)
        kept[tuple(dropped)] = change.graph
        products = sum(n.op_type == "MatMul" for n in change.graph.ir_model.graph)
        assert products == 4 - (2 if dropped == ["Add_y"] else len(dropped))
    if what != "affine":
        assert_same(kept["MatMul_one", "MatMul_two"], kept[("Add_y",)])


def test_a_branch_inside_a_branch_goes_with_it(context):
    net = Net(2)
    x = net.node("Tanh", [net.node("MatMul", ["x", net.weight("w0", 8, 8)], "h")], "t")
    y = net.node("MatMul", [x, net.weight("w1", 8, 8)], "a")
    y = net.node("Add", [y, net.node("MatMul", [y, net.weight("w2", 8, 8)], "inside")], "inner")
    y = net.node("MatMul", [net.node("Add", [y, x], "outer"), net.weight("w3", 8, 8)], "out")
    shape = ["n", 8]
    graph = net.graph([("x", TensorProto.FLOAT, shape)], [("out", TensorProto.FLOAT, shape)])
    place = context(graph)
    change = pruned(graph, place, drop=["Add_outer"])
    assert sum(n.op_type == "MatMul" for n in change.graph.ir_model.graph) == 2
    everything = pruned(graph, place, ratio=1.0)
    assert sum(n.op_type == "MatMul" for n in everything.graph.ir_model.graph) == 2
    assert "of 2 branches" in everything.notes[-1]


def test_a_fused_sum_that_goes_on_is_taken_apart(context):
    """Pre-norm as ONNX Runtime fuses it: the fourth output is the sum, which the next sum reads."""
    plain = transformer(depth=2)
    editor = Editor(plain.copy())
    for norm in [n for n in editor.main if n.op_type == "LayerNormalization"]:
        add = norm.inputs[0].producer()
        if add is None or add.op_type != "Add":
            continue
        fused = ir.Node(
            "com.microsoft",
            "SkipLayerNormalization",
            [add.inputs[1], add.inputs[0], norm.inputs[1], norm.inputs[2]],
            [ir.AttrFloat32("epsilon", 1e-5)],
            num_outputs=4,
            name=f"{add.name}",
        )
        for value, old in ((fused.outputs[0], norm.outputs[0]), (fused.outputs[3], add.outputs[0])):
            value.name, value.type = old.name, old.type
        fused.outputs[1].name = fused.outputs[2].name = ""
        editor.main.insert_before(norm, fused)
        norm.outputs[0].replace_all_uses_with(fused.outputs[0])
        add.outputs[0].replace_all_uses_with(fused.outputs[3])
        editor.main.remove([norm, add], safe=True)
    editor.graph.ir_model.opset_imports["com.microsoft"] = 1
    fused = Graph(editor.graph.ir_model)
    assert_same(plain, fused)
    dropped = ["Add_layers.0.feed.sum", "Add_layers.1.attention.sum"]
    for what in ("mean", "affine"):
        ours = pruned(fused, context(plain), drop=dropped, replace=what)
        theirs = pruned(plain, context(plain), drop=dropped, replace=what)
        assert {site.name for site in ours.sites} == set(dropped)
        assert_same(theirs.graph, ours.graph)


@pytest.mark.parametrize("case", ["conv_net", "mlp", "lstm"])
def test_a_graph_without_branches_stays(case, context):
    graph = GRAPHS[case]()
    change = pruned(graph, context(graph), ratio=1.0)
    assert not change.effective
    assert change.graph is graph
    assert change.skipped == ()


def test_excluded_and_unknown_names(context):
    graph = residual_net()
    place = context(graph)
    change = pruned(graph, place, ratio=1.0, exclude=["Add_one.0.sum", "Conv_two.1.a", "nothing"])
    assert {site.name for site in change.sites} == {"Add_one.1.sum", "Add_two.0.sum"}
    reasons = {skip.name: skip.reason for skip in change.skipped}
    assert reasons["Add_one.0.sum"] == reasons["Add_two.1.sum"] == "excluded by the recipe"
    assert "exclude names no branch: nothing" in change.notes
    strange = pruned(graph, place, drop=["Add_half.sum"])
    assert not strange.effective
    assert strange.notes == ("drop names no branch: Add_half.sum",)


def test_what_runs_in_half_precision_stays(context):
    graph = residual_net()
    place = context(graph)
    half = methods.apply(Recipe([Step("cast", {"what": "compute"})]), graph, place)
    change = pruned(half.graph, place, ratio=1.0)
    assert not change.effective
    assert any("float32" in skip.reason for skip in change.skipped)


def test_channels_are_where_the_layer_puts_them():
    net = Net()
    c = net.node("Conv", ["x", net.weight("w", 6, 5, 1, 1)], "c")
    t = net.node("Transpose", [c], "t", perm=[0, 2, 3, 1])
    m = net.node("MatMul", [net.node("Relu", [t], "r"), net.weight("v", 6, 4)], "m")
    net.node("Transpose", [m], "back", perm=[0, 3, 1, 2])
    graph = net.graph(
        [("x", TensorProto.FLOAT, ["n", 5, "h", "w"])], [("back", TensorProto.FLOAT, ["n", 4, "h", "w"])]
    )
    values = {v.name: v for node in graph.ir_model.graph for v in node.outputs}
    found = {name: channels_of(values[name], 4) for name in ("c", "r", "m", "back")}
    assert {name: (c.axis, c.size) for name, c in found.items()} == {
        "c": (-3, 6),
        "r": (-1, 6),
        "m": (-1, 4),
        "back": (-3, 4),
    }
