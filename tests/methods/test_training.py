"""Fine-tuning and distillation as methods: what they mend, what they leave, what they refuse."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import calibration_for, conv_net, in_nodes

from hasten import methods
from hasten.core.errors import MethodError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from tests.train.nets import classifier, separable


@pytest.fixture
def context(tmp_path):
    return methods.Context(calibration=separable(tmp_path / "data", 160), work=tmp_path)


def damaged(graph: Graph, seed: int = 0) -> Graph:
    """The graph with a third of its weights made zero, as pruning would."""
    changed = graph.copy()
    rng = np.random.default_rng(seed)
    for name in ("w1", "w2"):
        weight = changed.weights[name].const_value.numpy().copy()
        weight[rng.random(weight.shape) < 0.3] = 0
        changed.weights[name].const_value = ir.tensor(weight, name=name)
    return changed


def apart(graph: Graph, original: Graph, context: methods.Context) -> float:
    x = context.calibration.gather(context.calibration.indices).inputs
    ours, theirs = (Evaluator(g).run({"x": x["x"]})["logits"] for g in (graph, original))
    # A number added to all scores of a sample changes no distribution, so it is not learned.
    ours, theirs = (v - v.mean(axis=1, keepdims=True) for v in (ours, theirs))
    return float(np.mean((ours - theirs) ** 2) / np.mean(theirs**2))


def test_finetune_learns_the_labels(context):
    recipe = Recipe([Step("finetune", {"epochs": 20, "learning_rate": 0.01})])
    change = methods.apply(recipe, classifier(), context)
    assert {site.name for site in change.sites} == {"w1", "b1", "w2", "b2"}
    assert {site.op_type for site in change.sites} == {"Gemm"}
    batch = context.calibration.gather(context.calibration.indices)
    right = [
        np.mean(Evaluator(g).run({"x": batch.inputs["x"]})["logits"].argmax(1) == batch.labels)
        for g in (classifier(), change.graph)
    ]
    assert right[1] > 0.95 > right[0]


def test_distill_mends_what_was_damaged(context):
    original = classifier()
    student = damaged(original)
    step = Step("distill", {"epochs": 20, "learning_rate": 0.01})
    change = methods.apply(Recipe([step]), student, replace(context, original=original))
    assert change.effective
    assert apart(change.graph, original, context) < 0.2 * apart(student, original, context)


def test_distill_learns_from_another_model_with_features(context, tmp_path):
    other = classifier(4)
    other.write(tmp_path / "other.onnx")
    params = {
        "teacher": str(tmp_path / "other.onnx"),
        "epochs": 20,
        "learning_rate": 0.01,
        "features": "matched",
        "alpha": 0.1,
    }
    change = methods.apply(Recipe([Step("distill", params)]), classifier(), context)
    assert apart(change.graph, other, context) < 0.5 * apart(classifier(), other, context)


def test_distill_on_the_original_itself_has_no_effect(context):
    change = methods.apply(Recipe(["distill"]), classifier(), context)
    assert not change.effective
    assert "still the teacher" in change.skipped[0].reason


def test_after_quantization_the_integers_stay_and_the_rest_learns(tmp_path):
    graph = conv_net()
    context = methods.Context(calibration=calibration_for(graph, tmp_path / "store", 32), work=tmp_path)
    quantized = methods.apply(Recipe(["quantize_static"]), graph, context).graph
    step = Step("distill", {"epochs": 4, "learning_rate": 0.003})
    change = methods.apply(Recipe([step]), quantized, replace(context, original=graph))
    for name, value in quantized.weights.items():
        after = change.graph.weights[name].const_value
        if value.dtype in (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.INT64):
            np.testing.assert_array_equal(after.numpy(), value.const_value.numpy())
    assert all(quantized.weights[site.name].dtype == ir.DataType.FLOAT for site in change.sites)


def test_weights_behind_a_rounding_learn_through_it(context):
    graph = rounded(classifier())
    change = methods.apply(Recipe([Step("finetune", {"epochs": 10, "learning_rate": 0.01})]), graph, context)
    assert {"w1", "b1", "w2", "b2"} == {site.name for site in change.sites}
    for name in ("s", "z"):
        np.testing.assert_array_equal(
            change.graph.weights[name].const_value.numpy(), graph.weights[name].const_value.numpy()
        )


def rounded(graph: Graph) -> Graph:
    """The classifier with its first weight behind a QuantizeLinear and a DequantizeLinear."""
    changed = graph.copy()
    model = changed.ir_model.graph
    weight = model.initializers["w1"]
    scale = float(np.abs(weight.const_value.numpy()).max()) / 127
    for name, array in (("s", np.array(scale, np.float32)), ("z", np.array(0, np.int8))):
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        model.register_initializer(value)
    first = model[0]
    quantize = ir.node("QuantizeLinear", [weight, model.initializers["s"], model.initializers["z"]])
    dequantize = ir.node(
        "DequantizeLinear", [quantize.outputs[0], model.initializers["s"], model.initializers["z"]]
    )
    quantize.outputs[0].name, dequantize.outputs[0].name = "w1_q", "w1_dq"
    model.insert_before(first, [quantize, dequantize])
    first.replace_input_with(1, dequantize.outputs[0])
    return Graph(ir.serde.deserialize_model(ir.serde.serialize_model(changed.ir_model)))


def test_what_is_missing_is_said(tmp_path):
    plain = separable(tmp_path / "plain", labels=None)
    context = methods.Context(calibration=plain, work=tmp_path)
    with pytest.raises(MethodError, match="the data have none; use distill"):
        methods.apply(Recipe(["finetune"]), classifier(), context)
    with pytest.raises(MethodError, match="set alpha to 0"):
        methods.apply(Recipe([Step("distill", {"alpha": 0.5})]), classifier(), context)
    numbers = separable(tmp_path / "numbers", labels="classes")
    with pytest.raises(MethodError, match="no weight to train"):
        methods.apply(
            Recipe([Step("finetune", {"trainable": "no*"})]),
            classifier(),
            replace(context, calibration=numbers),
        )


@pytest.mark.parametrize("package", ["torch", "accelerate", "safetensors"])
def test_a_missing_package_is_named_with_the_way_to_get_it(context, package):
    store = context.calibration.store.folder
    code = f"""
import sys
sys.modules[{package!r}] = None
from pathlib import Path
from hasten import methods
from hasten.core.data import Calibration, Store
from hasten.core.errors import Unavailable
from hasten.core.recipe import Recipe
from hasten.graph import Graph
store = Store(Path({str(store)!r}))
context = methods.Context(calibration=Calibration(store, range(len(store))), work=Path({str(store)!r}))
try:
    methods.apply(Recipe(["finetune"]), Graph.open({str(store / "model.onnx")!r}), context)
except Unavailable as error:
    print(error)
"""
    classifier().write(store / "model.onnx")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "which is not installed; install it with: pip install 'hasten[" in done.stdout


def test_weights_in_nodes_are_told_of_like_others(context):
    original, names = classifier(), ("w1", "b1", "w2", "b2")
    held = in_nodes(original, names)
    step = Recipe([Step("finetune", {"epochs": 1.0})])
    told = [methods.apply(step, graph, context).sites for graph in (original, held)]
    assert {site.name for site in told[0]} == set(names)
    assert sorted((s.name, s.what) for s in told[0]) == sorted((s.name, s.what) for s in told[1])


def test_a_loss_that_rises_is_told_where_nothing_was_held_back(context):
    few = replace(context, calibration=context.calibration.take(40))
    step = Step("finetune", {"learning_rate": 100.0, "epochs": 10.0})
    notes = methods.apply(Recipe([step]), classifier(), few).notes
    assert any("the loss rose from" in note and "lower learning_rate" in note for note in notes)
    learned = methods.apply(Recipe([Step("finetune", {"epochs": 10.0})]), classifier(), few).notes
    assert not any("rose" in note for note in learned)
