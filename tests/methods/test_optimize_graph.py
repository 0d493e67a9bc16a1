"""The method as a whole: equal, settled, fit for both runtimes, and safe against a rewrite that errs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from hasten import methods
from hasten.core.errors import RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.core.record import Site
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.evaluate import Evaluator
from hasten.methods import optimize_graph
from hasten.rewrites import ALL


def graph(text, opset, ir_version=8, **weights):
    model = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> tested {text}')
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return Graph(ir.serde.deserialize_model(model))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def context(tmp_path):
    return methods.Context(calibration=None, work=tmp_path)


@pytest.fixture
def optimize(context):
    return lambda made, **params: methods.apply(Recipe([Step("optimize_graph", params)]), made, context)


def ops(made):
    return Counter(node.op_type for owner in made.ir_model.graphs() for node in owner)


PADDLE = """(float[n,3,h,w] x) => (float[n,k,5] y) {
    c = Conv<pads=[1,1,1,1]>(x, w0) d = BatchNormalization(c, g, b, m, v)
    e = Conv<pads=[1,1,1,1], group=8>(d, w1) s = Mul(s1, e) t = Add(s, t1)
    a = Add(t, three) f = Clip(a, zero, six) q = Mul(t, f) r = Div(q, six) s2 = Mul(sf, r) t2 = Add(s2, tf)
    u = Conv<pads=[1,1,1,1], group=8>(t2, w2)
    z = Shape(u) i = Cast<to=6>(z) j = Slice(i, p0, p2, p0, p1) l = Cast<to=7>(j) o = Concat<axis=0>(l, m1)
    p = Reshape(u, o) pp = Transpose<perm=[0,2,1]>(p) mm = MatMul(pp, w3) ab = Add(mm, bias)
    y = Softmax<axis=2>(ab) }"""
PADDLE_WEIGHTS = {
    "w0": normal(8, 3, 3, 3) / 5,
    "g": np.ones(8, np.float32),
    "b": normal(8, seed=1),
    "m": normal(8, seed=2),
    "v": np.full(8, 0.8, np.float32),
    "w1": normal(8, 1, 3, 3) / 3,
    "s1": np.asarray([1.4], np.float32),
    "t1": np.asarray([0.6], np.float32),
    "three": np.asarray([3], np.float32),
    "zero": np.float32(0),
    "six": np.float32(6),
    "sf": np.asarray([0.17], np.float32),
    "tf": np.asarray([-0.3], np.float32),
    "w2": normal(8, 1, 3, 3, seed=3) / 3,
    "p0": np.asarray([0]),
    "p1": np.asarray([1]),
    "p2": np.asarray([2]),
    "m1": np.asarray([-1]),
    "w3": normal(8, 5),
    "bias": normal(5),
}


@pytest.fixture
def paddle():
    """What Paddle's exporter makes of a depthwise block with learnable scales: opset 12, sizes computed."""
    return graph(PADDLE, 12, ir_version=7, **PADDLE_WEIGHTS)


def test_an_old_export_becomes_a_few_modern_operators(paddle, optimize):
    change = optimize(paddle)
    assert change.graph.opset == 21
    assert ops(change.graph) == Counter(
        Conv=3, HardSwish=1, Add=2, Reshape=1, Transpose=1, MatMul=1, Softmax=1
    )
    feeds = {"x": normal(2, 3, 12, 20)}
    wanted, found = (Evaluator(g, optimized=False).run(feeds)["y"] for g in (paddle, change.graph))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_what_was_done_is_said_by_kind(paddle, optimize):
    said = {site.what.split(":")[0] for site in optimize(paddle).sites}
    assert said >= {"raise_opset", "simplify_shapes", "fuse_hardswish", "fold_affine", "fold_affine_before"}


def test_a_second_time_there_is_nothing_to_do(any_graph, optimize):
    once = optimize(any_graph).graph
    again = optimize(once)
    assert not again.effective
    assert again.graph.fingerprint == once.fingerprint


def test_a_second_time_after_an_old_export(paddle, optimize):
    assert not optimize(optimize(paddle).graph).effective


def test_nodes_have_names_of_their_own_and_keep_those_they_had(paddle, optimize):
    paddle.ir_model.graph[0].name = "first convolution"
    made = optimize(paddle).graph
    names = [node.name for node in made.ir_model.graph]
    assert all(names)
    assert len(set(names)) == len(names)
    assert made.ir_model.graph[0].name == "first convolution"


def test_weights_keep_their_names(paddle, optimize):
    assert {"w0", "w1", "w2", "w3"} <= set(optimize(paddle).graph.weights)


def test_metadata_go(paddle, optimize):
    paddle.ir_model.graph[0].metadata_props["namespace"] = "/home/somebody/model.py"
    paddle.ir_model.graph[0].doc_string = "File /home/somebody/model.py, line 3"
    assert b"somebody" not in optimize(paddle).graph.to_bytes()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_both_runtimes_run_the_result(paddle, optimize, runtime):
    feeds = {"x": normal(1, 3, 12, 20)}
    wanted = Evaluator(paddle).run(feeds)["y"]
    payload = optimize(paddle).graph.to_bytes()
    if runtime == "openvino":
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(core.read_model(payload), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled(feeds)[0]
    else:
        import onnxruntime

        found = onnxruntime.InferenceSession(payload).run(None, feeds)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_quantized_graph_stays_quantized(optimize):
    made = graph(
        """(float[n,4,6,6] x) => (float[n,8,6,6] y) {
          q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
          e = DequantizeLinear<axis=0>(w, row) f = DequantizeLinear<axis=0>(b, row2) c = Conv(d, e, f)
          g = QuantizeLinear(c, s, z) h = DequantizeLinear(g, s, z) i = Identity(h) y = Relu(i) }""",
        13,
        s=np.float32(0.05),
        z=np.uint8(128),
        row=np.full(8, 0.01, np.float32),
        row2=np.full(8, 0.0005, np.float32),
        w=np.random.default_rng(0).integers(-127, 128, (8, 4, 1, 1)).astype(np.int8),
        b=np.random.default_rng(1).integers(-999, 999, 8).astype(np.int32),
    )
    before = ops(made)
    made = optimize(made).graph
    assert ops(made) == before - Counter(Identity=1)
    assert made.weights["w"].dtype == ir.DataType.INT8


def test_calibration_samples_are_what_it_is_checked_on(any_graph, make_calibration, tmp_path):
    context = methods.Context(calibration=make_calibration(any_graph), work=tmp_path)
    change = methods.apply(Recipe(["optimize_graph"]), any_graph, context)
    assert not [skip for skip in change.skipped if "undone" in skip.reason]


def test_rewrites_can_be_left_out(paddle, optimize):
    made = optimize(paddle, skip=["fuse_hardswish", "raise_opset"]).graph
    assert made.opset == 12
    assert "HardSwish" not in ops(made)


def test_the_opset_can_be_chosen(paddle, optimize):
    assert optimize(paddle, opset=17).graph.opset == 17


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"skip": ["fold_everything"]}, r"skip.*fold_everything.*inline_functions"),
        ({"opset": 5}, "opset"),
        ({"opset": 99}, "opset"),
        ({"level": 3}, "level"),
    ],
)
def test_bad_hyper_parameters_are_refused(paddle, optimize, params, said):
    with pytest.raises(RecipeError, match=said):
        optimize(paddle, **params)


def wrong(made: Graph) -> Findings:
    """Doubles a bias that is one."""
    editor = Editor(made)
    for node in editor.nodes("Softmax"):
        double = editor.insert(node, "Mul", [node.inputs[0], editor.constant(np.float32(2), "two")])
        node.replace_input_with(0, double)
        editor.changed(node, "doubled")
    return editor.findings


def failing(made: Graph) -> Findings:
    """Stops half-way, the graph broken."""
    made.ir_model.graph[0].replace_input_with(0, None)
    raise ValueError("cannot go on")


@pytest.mark.parametrize("rewrite", [wrong, failing])
def test_a_rewrite_that_errs_is_undone_and_named(paddle, optimize, monkeypatch, rewrite):
    alone = optimize(paddle).graph
    monkeypatch.setattr(optimize_graph, "ALL", {**ALL, "erring": rewrite})
    change = optimize(paddle)
    assert ops(change.graph) == ops(alone)
    [skip] = [skip for skip in change.skipped if skip.op_type == "erring"]
    assert "undone" in skip.reason


def restless(made: Graph) -> Findings:
    """Says it changed something, for ever."""
    return Findings([Site(name="x", op_type="Conv", what="nothing")])


def test_a_rewrite_that_never_settles_does_not_hang(paddle, optimize, monkeypatch):
    monkeypatch.setattr(optimize_graph, "ALL", {**ALL, "restless": restless})
    assert ops(optimize(paddle).graph)["HardSwish"] == 1


def test_what_cannot_be_checked_is_not_touched(optimize):
    made = graph(
        "(float[n,6] x, float[m] t) => (float[n,5] y) { i = Identity(x) y = Reshape(i, k) }", 12, k=[7, 3]
    )
    change = optimize(made)
    assert not change.effective
    assert "verified" in change.skipped[0].reason


def test_progress_is_told(paddle, tmp_path):
    told = []
    context = methods.Context(
        calibration=None, work=tmp_path, progress=lambda what, done: told.append((what, done))
    )
    methods.apply(Recipe(["optimize_graph"]), paddle, context)
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert any("fold_affine" in what for what, _ in told)
