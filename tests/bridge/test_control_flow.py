"""Control flow: values and gradients through subgraphs, and where they live."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from hasten.bridge import to_torch
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

RNG = np.random.default_rng(5)
X = RNG.normal(size=(2, 3))
WEIGHTS = {"w": RNG.normal(size=(3, 3)) / 2, "b": RNG.normal(size=3)}


def graph_of(signature: str, body: str, opset: int = 17, **weights: np.ndarray) -> Graph:
    """A graph from ONNX's text format; weights are initializers of the main graph."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> agraph {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in weights.items())
    onnx.checker.check_model(model)
    return Graph(ir.serde.deserialize_model(model))


def check(graph: Graph, *feeds: np.ndarray) -> list[torch.Tensor]:
    """The bridge gives what ONNX Runtime gives, and the gradients of inputs and weights are right."""
    names = [spec.name for spec in graph.inputs]
    expected = Evaluator(graph).run(dict(zip(names, feeds, strict=True)))
    module = to_torch(graph)
    inputs = [torch.from_numpy(feed) for feed in feeds]
    found = module(*inputs)
    outputs = list(found) if isinstance(found, tuple) else [found]
    for output, wanted in zip(outputs, expected.values(), strict=True):
        assert tuple(output.shape) == wanted.shape
        np.testing.assert_allclose(output.detach().numpy(), wanted, rtol=1e-12, atol=1e-12)
    learned = {name: p for name, p in module.named_parameters() if p.is_floating_point()}
    free = [x for x in inputs if x.is_floating_point()]

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        taken = iter(values)
        given = [next(taken) if x.is_floating_point() else x for x in inputs]
        result = torch.func.functional_call(module, dict(zip(learned, taken, strict=True)), tuple(given))
        results = result if isinstance(result, tuple) else (result,)
        return tuple(r for r in results if r.is_floating_point())

    values = [v.detach().clone().requires_grad_() for v in (*free, *learned.values())]
    assert torch.autograd.gradcheck(run, values)
    return outputs


IF = """
    y = If (c) <then_branch = yes () => (double[2,3] a) { p = MatMul (x, w)  a = Tanh (p) },
                else_branch = no () => (double[2,3] d) { q = Add (x, b)  d = Exp (q) }>
"""
LOOP = """
    y, all = Loop (n, go, x) <
      body = step (int64 i, bool c, double[2,3] s) => (bool k, double[2,3] t, double[2,3] r) {
        k = Identity (c)  p = MatMul (s, w)  z = Tanh (p)  t = Add (z, b)  r = Mul (t, t)
    }>
"""
SCAN = """
    y, all = Scan (h, x) <num_scan_inputs = 1, scan_input_directions = [%d], scan_output_directions = [%d],
                          scan_input_axes = [%d], scan_output_axes = [%d],
        body = step (double[3] s, double[3] e) => (double[3] t, double[3] r) {
            p = MatMul (s, w)  q = Add (p, e)  t = Tanh (q)  r = Mul (t, b)
        }>
"""


@pytest.mark.parametrize("condition", [True, False])
def test_if_with_captured_weights(condition):
    graph = graph_of("(bool c, double[2,3] x) => (double[2,3] y)", IF, **WEIGHTS)
    check(graph, np.array(condition), X)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_loop_with_captured_weights(count):
    graph = graph_of(
        "(int64 n, bool go, double[2,3] x) => (double[2,3] y, double[p,2,3] all)", LOOP, **WEIGHTS
    )
    outputs = check(graph, np.array(count), np.array(True), X)
    assert outputs[1].shape == (count, 2, 3)


def test_loop_that_may_not_start():
    graph = graph_of(
        "(int64 n, bool go, double[2,3] x) => (double[2,3] y, double[p,2,3] all)", LOOP, **WEIGHTS
    )
    outputs = check(graph, np.array(4), np.array(False), X)
    assert torch.equal(outputs[0], torch.from_numpy(X))


def test_loop_until_its_condition_fails():
    body = """
        y, all = Loop ("", go, x) <body = step (int64 i, bool c, double[2,3] s)
                                          => (bool k, double[2,3] t, double r) {
            t = Mul (s, factor)  r = ReduceSum <keepdims = 0> (t)  m = ReduceMax <keepdims = 0> (t)
            k = Less (m, bound)
        }>
    """
    graph = graph_of(
        "(bool go, double[2,3] x) => (double[2,3] y, double[p] all)",
        body,
        factor=np.array([1.5, 1.4, 1.3]),
        bound=np.array(20.0),
    )
    outputs = check(graph, np.array(True), np.abs(X) + 0.5)
    assert outputs[0].max() >= 20
    assert (outputs[0] / torch.tensor([1.5, 1.4, 1.3])).max() < 20


@pytest.mark.parametrize("backwards", [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("axes", [(0, 0), (1, 1)])
def test_scan(backwards, axes):
    graph = graph_of(
        "(double[3] h, double[4,3] x) => (double[3] y, double[4,3] all)".replace(
            "double[4,3]", "double[p,q]"
        ),
        SCAN % (*backwards, *axes),
        **WEIGHTS,
    )
    steps = RNG.normal(size=(4, 3))
    check(graph, X[0], steps if axes[0] == 0 else np.ascontiguousarray(steps.T))


def test_scan_over_nothing():
    graph = graph_of(
        "(double[3] h, double[p,3] x) => (double[3] y, double[p,3] all)", SCAN % (0, 0, 0, 0), **WEIGHTS
    )
    module = to_torch(graph)
    final, all_of_them = module(torch.from_numpy(X[0]), torch.zeros(0, 3, dtype=torch.float64))
    assert torch.equal(final, torch.from_numpy(X[0]))
    assert all_of_them.shape == (0, 3)
    assert all_of_them.dtype == torch.float64


def test_nested_bodies_capture_through_every_level():
    body = """
        limit = Constant <value = int64 {3}> ()
        start = Constant <value = bool {1}> ()
        scaled = Mul (x, b)
        y = Loop (limit, start, x) <body = outer (int64 i, bool c, double[2,3] s) => (bool k, double[2,3] t) {
            k = Identity (c)
            one = Constant <value = int64 {1}> ()
            odd = Mod (i, two)
            first = Equal (odd, one)
            t = If (first) <then_branch = yes () => (double[2,3] a) {
                inner = Loop (two, c, s) <
                  body = deep (int64 j, bool d, double[2,3] u) => (bool l, double[2,3] v) {
                    l = Identity (d)  p = MatMul (u, w)  m = Add (p, scaled)  v = Tanh (m)
                }>
                a = Add (inner, scaled)
            }, else_branch = no () => (double[2,3] e) { f = MatMul (s, w)  e = Sub (f, b) }>
        }>
    """
    graph = graph_of("(double[2,3] x) => (double[2,3] y)", body, two=np.array(2), **WEIGHTS)
    check(graph, X)


def test_weights_inside_subgraphs_are_parameters_and_go_back():
    """Two branches whose stored tensors have the same name keep one each."""
    body = """
        y = If (c) <then_branch = yes () => (double[2,3] a) {
                        k = Constant <value = double[3] {1.0, 2.0, 3.0}> ()  a = Mul (x, k) },
                    else_branch = no () => (double[2,3] d) {
                        k = Constant <value = double[3] {4.0, 5.0, 6.0}> ()  d = Mul (x, k) }>
    """
    graph = graph_of("(bool c, double[2,3] x) => (double[2,3] y)", body)
    module = to_torch(graph)
    assert sorted(p.tolist() for p in module.parameters()) == [[1, 2, 3], [4, 5, 6]]
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(10)
    trained = module.to_graph()
    for condition in (True, False):
        found = Evaluator(trained).run({"c": np.array(condition), "x": X})["y"]
        wanted = module(torch.tensor(condition), torch.from_numpy(X))
        np.testing.assert_allclose(found, wanted.detach().numpy())
        assert np.abs(found).sum() == pytest.approx(
            10 * np.abs(X * ([1, 2, 3] if condition else [4, 5, 6])).sum()
        )


def test_body_that_returns_what_it_captures():
    body = """
        y = If (c) <then_branch = yes () => (double[2,3] a) { a = Identity (x) },
                    else_branch = no () => (double[2,3] z) {
                        s = Shape (x)  z = ConstantOfShape <value = double[1] {2.0}> (s) }>
    """
    graph = graph_of("(bool c, double[2,3] x) => (double[2,3] y)", body)
    check(graph, np.array(True), X)
    module = to_torch(graph)
    assert torch.equal(
        module(torch.tensor(False), torch.from_numpy(X)), torch.full((2, 3), 2.0, dtype=torch.float64)
    )


def test_sequences_grow_in_a_loop():
    body = """
        empty = SequenceEmpty <dtype = 11> ()
        rows = Loop (n, go, empty) <
          body = step (int64 i, bool c, seq(double[3]) s) => (bool k, seq(double[3]) t) {
            k = Identity (c)  r = Gather (x, i)  m = MatMul (r, w)  t = SequenceInsert (s, m)
        }>
        y = ConcatFromSequence <axis = 0, new_axis = 1> (rows)
    """
    graph = graph_of("(int64 n, bool go, double[2,3] x) => (double[p,3] y)", body, w=WEIGHTS["w"])
    check(graph, np.array(2), np.array(True), X)


def test_sequence_map_with_a_weight():
    body = """
        parts = SplitToSequence <axis = 0, keepdims = 0> (x)
        mapped = SequenceMap (parts, b) <body = each (double[3] e, double[3] o) => (double[3] m) {
            p = MatMul (e, w)  m = Add (p, o)
        }>
        y = ConcatFromSequence <axis = 0, new_axis = 1> (mapped)
    """
    graph = graph_of("(double[2,3] x) => (double[p,3] y)", body, **WEIGHTS)
    found = to_torch(graph)(torch.from_numpy(X))
    np.testing.assert_allclose(found.detach().numpy(), X @ WEIGHTS["w"] + WEIGHTS["b"])
