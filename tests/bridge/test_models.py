"""Whole models: the bridge beside ONNX Runtime, there and back again."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from small_graphs import feeds_of

from hasten.bridge import GraphModule, to_torch
from hasten.core.errors import ModelError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist"


@pytest.fixture(scope="module")
def example() -> Graph:
    return Graph.open(EXAMPLE / "model.onnx")


def real_feeds(graph: Graph, count: int = 8) -> dict[str, np.ndarray]:
    with np.load(EXAMPLE / "data.npz") as archive:
        return {spec.name: archive[spec.name][:count].astype(spec.dtype) for spec in graph.inputs}


def run(module: GraphModule, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        found = module.eval()(*(torch.from_numpy(feeds[name]) for name in module.input_names))
    outputs = found if isinstance(found, tuple) else (found,)
    return [output.numpy() for output in outputs]


def assert_like_runtime(module: GraphModule, graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    """Sums of a few hundred float32 products in another order differ by some 1e-6 of their size."""
    expected = Evaluator(graph).run(feeds)
    for found, wanted in zip(run(module, feeds), expected.values(), strict=True):
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        scale = np.abs(wanted).max() or 1.0
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * scale)


def perturb(module: GraphModule) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(0.1 * weight.abs().mean() * noise)


def weight_bytes(graph: Graph) -> dict[str, bytes]:
    return {
        f"{i}:{tensor.name}:{tensor.dtype}:{tensor.shape}": tensor.tobytes()
        for i, tensor in enumerate(graph.tensors())
    }


def test_example_like_runtime(example):
    assert_like_runtime(to_torch(example), example, real_feeds(example))


def test_small_graphs_like_runtime(any_graph):
    assert_like_runtime(to_torch(any_graph), any_graph, feeds_of(any_graph))


def test_untrained_weights_keep_every_byte(any_graph, example):
    for graph in (any_graph, example):
        back = to_torch(graph).to_graph()
        assert weight_bytes(back) == weight_bytes(graph)
        assert back.fingerprint == graph.fingerprint


def test_trained_weights_in_runtime(any_graph):
    before = weight_bytes(any_graph)
    module = to_torch(any_graph)
    perturb(module)
    trained = module.to_graph()
    assert_like_runtime(module, trained, feeds_of(any_graph))
    assert weight_bytes(trained) != before
    assert weight_bytes(any_graph) == before, "the graph it came from was changed"


def test_example_learns(example):
    """A few steps of descent on real labels lower the loss, in training mode too."""
    feeds = real_feeds(example, 64)
    with np.load(EXAMPLE / "data.npz") as archive:
        labels = torch.from_numpy(archive["labels"][:64].astype(np.int64))
    module = to_torch(example).train()
    perturb(module)
    x = torch.from_numpy(feeds[module.input_names[0]])
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(module(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert_like_runtime(module, module.to_graph(), feeds)


def test_state_dict_round_trip(any_graph, tmp_path):
    module, other = to_torch(any_graph), to_torch(any_graph)
    perturb(module)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    kept = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert list(kept) == list(module.state_dict())
    other.load_state_dict(kept)
    feeds = feeds_of(any_graph)
    for one, two in zip(run(module, feeds), run(other, feeds), strict=True):
        np.testing.assert_array_equal(one, two)
    assert other.to_graph().fingerprint == module.to_graph().fingerprint


def test_state_dict_through_safetensors(any_graph, tmp_path):
    from safetensors.torch import load_file, save_file

    module, other = to_torch(any_graph), to_torch(any_graph)
    perturb(module)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert other.to_graph().fingerprint == module.to_graph().fingerprint


def test_copy_is_independent(any_graph):
    module = to_torch(any_graph)
    twin = copy.deepcopy(module)
    feeds = feeds_of(any_graph)
    before = run(module, feeds)
    perturb(twin)
    for one, two in zip(run(module, feeds), before, strict=True):
        np.testing.assert_array_equal(one, two)
    assert_like_runtime(twin, twin.to_graph(), feeds)


def test_a_module_computes_with_its_own_weights_after_it_was_exported(any_graph):
    module, feeds = to_torch(any_graph).eval(), feeds_of(any_graph)
    before = run(module, feeds)
    torch.export.export(module, tuple(torch.from_numpy(feed) for feed in feeds.values()))
    perturb(module)
    assert_like_runtime(module, module.to_graph(), feeds)
    assert any(not np.array_equal(one, two) for one, two in zip(run(module, feeds), before, strict=True))


def graph_of(signature: str, body: str, **weights: np.ndarray) -> Graph:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> agraph {signature} {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in weights.items())
    onnx.checker.check_model(model)
    return Graph(ir.serde.deserialize_model(model))


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


PLACES = {
    "shared by two nodes": ("a = MatMul (x, w)  b = Tanh (a)  y = MatMul (b, w)", True),
    "behind a Transpose": ("t = Transpose <perm = [1, 0]> (w)  y = MatMul (x, t)", True),
    "shared and transposed": ("a = MatMul (x, w)  t = Transpose (w)  y = MatMul (a, t)", True),
    "read whole and in part": (
        "z = Constant <value_ints = [0]> ()  e = Constant <value_ints = [2]> ()"
        "  h = Slice (w, z, e, z)  r = ReduceSum <keepdims = 0> (h)  a = MatMul (x, w)  y = Add (a, r)",
        True,
    ),
    "in a Constant node": (
        "c = Constant <value = float[3,3] {1.,2.,3.,4.,5.,6.,7.,8.,9.}> ()  y = MatMul (x, c)",
        False,
    ),
    "in a Constant node of floats": (
        "c = Constant <value_floats = [1.0, 2.0, 3.0]> ()  h = Constant <value_float = 0.5> ()"
        "  a = Mul (x, c)  y = Add (a, h)",
        False,
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_trained_weights_wherever_they_are(place):
    body, stored = PLACES[place]
    graph = graph_of("(float[2,3] x) => (float[2,3] y)", body, **({"w": rows(3, 3)} if stored else {}))
    module = to_torch(graph)
    feeds = {"x": rows(2, 3)}
    assert weight_bytes(module.to_graph()) == weight_bytes(graph)
    assert len(list(module.parameters())) == 1
    before = run(module, feeds)[0]
    perturb(module)
    after = run(module, feeds)[0]
    assert np.abs(after - before).max() > 1e-3
    assert_like_runtime(module, module.to_graph(), feeds)


def test_shared_weight_gets_the_gradient_of_both_uses():
    graph = graph_of("(float[2,3] x) => (float[2,3] y)", PLACES["shared by two nodes"][0], w=rows(3, 3))
    module, x = to_torch(graph).double(), torch.from_numpy(rows(2, 3)).double()
    (weight,) = module.parameters()
    module(x).sum().backward()
    same = torch.from_numpy(rows(3, 3)).double().requires_grad_()
    (torch.tanh(x @ same) @ same).sum().backward()
    torch.testing.assert_close(weight.grad, same.grad)


def test_weight_of_a_function_called_twice():
    """Functions are inlined: a weight inside one belongs to each of its calls."""
    text = """
        <ir_version: 10, opset_import: ["" : 21, "own" : 1]>
        agraph (float[2,3] x) => (float[2,3] y) { a = own.layer (x)  y = own.layer (a) }
        <domain: "own", opset_import: ["" : 21]>
        layer (v) => (r) { k = Constant <value = float[3] {1.0, 2.0, 3.0}> ()  r = Mul (v, k) }
    """
    graph = Graph(ir.serde.deserialize_model(onnx.parser.parse_model(text)))
    module = to_torch(graph)
    assert len(list(module.parameters())) == 2
    perturb(module)
    assert_like_runtime(module, module.to_graph(), {"x": rows(2, 3)})


def test_weight_of_another_shape_is_refused(any_graph):
    module = to_torch(any_graph)
    name, weight = next(iter(module.named_parameters()))
    weight.data = weight.data.reshape(-1)[:1]
    with pytest.raises(ModelError, match=name):
        module.to_graph()


def test_an_output_that_nothing_reads_changes_no_other():
    graph = graph_of("(float[n, 8] x) => (float[n, 3] y)", "y = MatMul(x, w)  z = Softmax(y)", w=rows(8, 3))
    assert_like_runtime(to_torch(graph), graph, {"x": rows(2, 8)})


@pytest.mark.parametrize("op_type", ["RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"])
def test_what_a_seeded_node_draws_follows_from_how_often_it_has_drawn(op_type):
    extra, kind = (", sample_size = 9", "int32[2,9]") if op_type == "Multinomial" else ("", "float[2,3]")
    graph = graph_of(f"(float[2,3] x) => ({kind} y)", f"y = {op_type} <seed = 3.0{extra}> (x)")
    x, module = torch.from_numpy(rows(2, 3)).sigmoid(), to_torch(graph)
    first = module(x)
    drawn, twin, late = dict(module.drawn), copy.deepcopy(module), to_torch(graph)
    wanted = torch.stack([module(x) for _ in range(9)])
    assert torch.equal(torch.stack([twin(x) for _ in range(9)]), wanted)
    assert torch.equal(late(x), first)
    late.drawn = drawn
    assert torch.equal(torch.stack([late(x) for _ in range(9)]), wanted)
    assert len(wanted.unique(dim=0)) > 1
