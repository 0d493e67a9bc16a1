"""Trainings of what is unusual: other labels, masks, rows of tokens, gradients that are no numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from small_graphs import Net, calibration_for, lstm
from torch import nn

from hasten.core.data import Calibration, StoreWriter
from hasten.core.errors import DataError, InputError, ModelError, OutputError, TrainingError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.train import Settings, checkpoint, fit
from hasten.train.labels import from_labels
from hasten.train.network import Intake, Network
from hasten.train.samples import Batch, Samples
from tests.train.nets import CLASSES, WIDTH, classifier, separable

FLOAT = TensorProto.FLOAT
QUICK = {"learning_rate": 1e-2, "threads": 1, "batch_size": 16}


def stored(folder, samples) -> Calibration:
    writer = StoreWriter(folder, list(samples[0]))
    for sample in samples:
        writer.append({name: np.asarray(value) for name, value in sample.items()})
    return Calibration(writer.close(), range(len(samples)))


def moved(graph: Graph, share: float = 0.3, *, without: str = "") -> Graph:
    """The graph with noise on its weights."""
    changed, rng = graph.copy(), np.random.default_rng(1)
    for name, value in changed.weights.items():
        array = value.const_value.numpy()
        if name != without and array.dtype == np.float32:
            noisy = (array * (1 + share * rng.normal(size=array.shape))).astype(np.float32)
            value.const_value = ir.tensor(noisy, name=name)
    return changed


def one_score() -> Graph:
    net = Net(0)
    net.node("Gemm", ["x", net.weight("w", WIDTH, 1), net.weight("b", 1)], "score")
    return net.graph([("x", FLOAT, ["batch", WIDTH])], [("score", FLOAT, ["batch", 1])])


def test_yes_and_no_are_classes_whatever_type_they_are_stored_in(tmp_path):
    rng = np.random.default_rng(0)
    direction, x = rng.normal(size=WIDTH), rng.normal(size=(96, WIDTH)).astype(np.float32)
    found = []
    for kind in (np.int64, np.float32, np.uint16):
        samples = [{"x": row, "labels": kind(row @ direction > 0)} for row in x]
        fitted = fit(one_score(), stored(tmp_path / kind.__name__, samples), settings=Settings(**QUICK))
        assert fitted.history.metric == "accuracy"
        found.append(fitted.history.losses)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("kind", [np.uint16, np.uint64, np.float32])
def test_classes_are_classes_whatever_type_they_are_stored_in(tmp_path, kind):
    plain = separable(tmp_path / "plain")
    values = [plain.store.sample(i) for i in plain.indices]
    other = stored(tmp_path / "other", [{**v, "labels": v["labels"].astype(kind)} for v in values])
    losses = [fit(classifier(), data, settings=Settings(**QUICK)).history.losses for data in (plain, other)]
    assert losses[0] == losses[1]


def test_numbers_beyond_one_are_no_classes(tmp_path):
    x = np.random.default_rng(0).normal(size=(32, WIDTH)).astype(np.float32)
    samples = [{"x": row, "labels": np.float32(i)} for i, row in enumerate(x)]
    fitted = fit(one_score(), stored(tmp_path / "data", samples), settings=Settings(**QUICK))
    assert fitted.history.metric == "1 - normalized error"


def attention(mask: float) -> Graph:
    """Tokens that attend to those before them; the others get ``mask`` added."""
    net = Net(0)
    queries, keys, values = (net.node("MatMul", ["x", net.weight(n, 8, 8)], f"{n}.y") for n in "qkv")
    turned = net.node("Transpose", [keys], "turned", perm=[0, 2, 1])
    scores = net.node("MatMul", [queries, turned], "scores")
    hidden = np.where(np.triu(np.ones((6, 6)), 1) > 0, np.float32(mask), np.float32(0))
    masked = net.node("Add", [scores, net.constant("mask", hidden)], "masked")
    weights = net.node("Softmax", [masked], "weights", axis=-1)
    net.node("MatMul", [net.node("MatMul", [weights, values], "mixed"), net.weight("o", 8, CLASSES)], "y")
    return net.graph([("x", FLOAT, ["batch", 6, 8])], [("y", FLOAT, ["batch", 6, CLASSES])])


@pytest.mark.parametrize("mask", [-np.inf, np.finfo(np.float32).min, -1e4])
@pytest.mark.parametrize("how", [{"ema": 0.9}, {"relative": True}, {"optimizer": "sgd", "weight_decay": 0.1}])
def test_masks_are_not_learned(tmp_path, mask, how):
    graph = attention(mask)
    rng = np.random.default_rng(2)
    data = stored(tmp_path / "data", [{"x": rng.normal(size=(6, 8)).astype(np.float32)} for _ in range(32)])
    fitted = fit(moved(graph, without="mask"), data, settings=Settings(**QUICK, **how), teacher=graph)
    assert "mask" not in fitted.trained
    assert set("qkvo") <= set(fitted.trained)
    held = fitted.graph.weights["mask"].const_value.numpy()
    np.testing.assert_array_equal(held, graph.weights["mask"].const_value.numpy())
    found = Evaluator(fitted.graph).run({"x": data.gather(range(4)).inputs["x"]})["y"]
    assert np.isfinite(found).all()


def tokens(batch: object = "batch") -> Graph:
    """Outputs of a row a token."""
    net = Net(0)
    x = net.node("Reshape", ["x", net.constant("flat", np.array([-1, 8]))], "rows")
    x = net.node("Relu", [net.node("MatMul", [x, net.weight("w1", 8, 16)], "m1")], "inner")
    net.node("MatMul", [x, net.weight("w2", 16, 4)], "y")
    return net.graph([("x", FLOAT, [batch, 6, 8])], [("y", FLOAT, ["rows", 4])])


@pytest.mark.parametrize("batch", ["batch", 1, 5])
def test_rows_of_tokens_are_all_learned(tmp_path, batch):
    rng = np.random.default_rng(0)
    data = stored(tmp_path / "data", [{"x": rng.normal(size=(6, 8)).astype(np.float32)} for _ in range(4)])
    graph = tokens(batch)
    loaded = Samples(data, (), 0).load([0] if batch == 1 else range(4), None)
    found = Intake.of(graph, data).run(Network.of(graph, ["inner"]), loaded)
    assert found["y"].shape == (len(loaded), 6, 4)
    assert found["inner"].shape == (len(loaded), 6, 16)
    wanted = Evaluator(tokens()).run({"x": data.gather(loaded.indices).inputs["x"]})["y"]
    np.testing.assert_allclose(found["y"].detach().reshape(-1, 4), wanted, rtol=1e-5, atol=1e-6)
    student = moved(tokens(batch))
    fitted = fit(student, data, settings=Settings(epochs=20, **QUICK), teacher=graph)
    assert fitted.history.losses[-1] < 0.5 * fitted.history.losses[0]


def test_an_input_may_have_no_axis_for_samples(tmp_path):
    net = Net(0)
    x = net.node("Gemm", ["x", net.weight("w1", 8, 16), net.weight("b1", 16)], "inner")
    net.node("MatMul", [net.node("Mul", [x, "gain"], "scaled"), net.weight("w2", 16, 4)], "y")
    graph = net.graph([("x", FLOAT, ["batch", 8]), ("gain", FLOAT, [16])], [("y", FLOAT, ["batch", 4])])
    rng = np.random.default_rng(0)
    samples = [
        {"x": rng.normal(size=8).astype(np.float32), "gain": rng.uniform(1, 2, 16).astype(np.float32)}
        for _ in range(8)
    ]
    data = stored(tmp_path / "data", samples)
    fitted = fit(moved(graph), data, settings=Settings(epochs=20, **QUICK), teacher=graph)
    assert fitted.history.losses[-1] < 0.5 * fitted.history.losses[0]


def test_a_teacher_of_probabilities_teaches_logits(tmp_path):
    graph, data = classifier(), separable(tmp_path / "data", labels=None)
    probabilities = graph.copy()
    body = probabilities.ir_model.graph
    node = ir.node("Softmax", [body.outputs[0]], {"axis": -1})
    node.outputs[0].name, node.outputs[0].type = "p", body.outputs[0].type
    node.outputs[0].shape = body.outputs[0].shape
    body.append(node)
    body.outputs[0] = node.outputs[0]
    runs = [
        fit(moved(graph), data, settings=Settings(epochs=3, **QUICK), teacher=teacher).history.losses
        for teacher in (graph, probabilities)
    ]
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-3)


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    data = separable(tmp_path / "data", labels=None)
    with pytest.raises(InputError, match=r"\(1,\) of the student, \(5,\) of the teacher"):
        fit(one_score(), data, settings=Settings(**QUICK), teacher=classifier())
    with pytest.raises(InputError, match=r"feature 'r1': \(24,\) of the student, \(32,\) of the teacher"):
        fit(
            classifier(),
            data,
            settings=Settings(features=("r1",), **QUICK),
            teacher=classifier(hidden=32),
        )


def test_labels_of_places_are_not_taken_with_moved_pictures(tmp_path):
    net = Net(0)
    net.node("Conv", ["x", net.weight("w", 3, 1, 3, 3, fan_in=9)], "y", pads=[1] * 4)
    graph = net.graph([("x", FLOAT, ["batch", 1, 8, 8])], [("y", FLOAT, ["batch", 3, 8, 8])])
    rng = np.random.default_rng(0)
    samples = [
        {"x": rng.normal(size=(1, 8, 8)).astype(np.float32), "labels": rng.integers(0, 3, (8, 8))}
        for _ in range(8)
    ]
    data = stored(tmp_path / "data", samples)
    with pytest.raises(DataError, match="augment moves pictures alone"):
        fit(graph, data, settings=Settings(augment=("flip",), **QUICK))
    assert fit(graph, data, settings=Settings(**QUICK)).history.metric == "accuracy"


def test_weights_that_are_no_numbers_after_the_last_step_are_an_error(tmp_path):
    net = Net(0)
    x = net.node("Mul", ["x", net.weight("w", WIDTH)], "scaled")
    x = net.node("Sqrt", [net.node("ReduceSum", [net.node("Mul", [x, x], "squares")], "sum")], "length")
    net.node("Add", [net.node("Identity", ["x"], "same"), x], "y")
    graph = net.graph([("x", FLOAT, ["batch", WIDTH])], [("y", FLOAT, ["batch", WIDTH])])
    # The root of nothing has no slope, though the loss there is a number.
    data = stored(tmp_path / "data", [{"x": np.zeros(WIDTH, np.float32)} for _ in range(4)])
    with pytest.raises(TrainingError, match=r"w holds no numbers after optimizer step 1"):
        fit(graph, data, settings=Settings(steps=1, **QUICK), loss=lambda out, _: out["y"].sum())


def test_a_module_is_left_as_it_was_found(tmp_path):
    data = separable(tmp_path / "data")
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, CLASSES)) for _ in range(2)
    )
    settings = Settings(trainable="0.*", features=("1",), **QUICK)
    fit(student, data, settings=settings, teacher=teacher)
    assert all(weight.requires_grad for weight in student.parameters())
    assert teacher.training
    assert not any(part._forward_hooks for model in (student, teacher) for part in model.modules())
    assert set(fit(student, data, settings=Settings(**QUICK)).trained) == set(student.state_dict())


class Spare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.spare, self.pair = nn.Linear(WIDTH, CLASSES), nn.ReLU(), nn.GRU(WIDTH, CLASSES)

    def forward(self, x):
        return self.first(x) + self.pair(x)[0]


@pytest.mark.parametrize(("name", "said"), [("spare", "was not called"), ("pair", "gives tuple")])
def test_a_feature_that_a_module_does_not_give_is_named(tmp_path, name, said):
    data = separable(tmp_path / "data")
    with pytest.raises(ModelError, match=f"{name!r} {said}"):
        fit(Spare(), data, settings=Settings(features=(name,), **QUICK), teacher=Spare())


def test_a_training_whose_checkpoints_are_all_damaged_keeps_its_new_ones(tmp_path):
    data, folder = separable(tmp_path / "data"), tmp_path / "run"
    settings = Settings(epochs=3, checkpoint_every=4, **QUICK)
    wanted = fit(classifier(), data, settings=settings, folder=folder).history.losses
    for path in checkpoint.found(folder):
        (path / "model.safetensors").write_bytes(b"damaged")
    found: list[list[str]] = []
    again = fit(
        classifier(),
        data,
        settings=settings,
        folder=folder,
        resume=True,
        listener=lambda _: found.append([path.name for path in checkpoint.found(folder)]),
    )
    assert again.history.losses == wanted
    assert ["step-00000008", "step-00000004"] in found
    kept = checkpoint.found(folder)
    assert [path.name for path in kept] == ["step-00000018", "step-00000016"]
    assert all(checkpoint.read(path, torch.device("cpu")) for path in kept)


def test_rates_relative_to_the_first_weights_are_kept_in_a_checkpoint(tmp_path):
    data = separable(tmp_path / "data")
    settings = Settings(epochs=3, relative=True, weight_decay=0.1, checkpoint_every=6, **QUICK)

    def fresh():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, CLASSES))

    module = fresh()
    wanted = fit(module, data, settings=settings, folder=tmp_path / "run")
    for path in checkpoint.found(tmp_path / "run")[:1]:
        (path / "model.safetensors").write_bytes(b"damaged")
    again = fit(module, data, settings=settings, folder=tmp_path / "run", resume=True)
    assert again.history.losses == wanted.history.losses
    for name, tensor in again.module.state_dict().items():
        assert torch.equal(tensor, wanted.module.state_dict()[name])


def test_what_cannot_be_resumed_is_said(tmp_path):
    data = separable(tmp_path / "data")
    with pytest.raises(InputError, match="resume needs the folder"):
        fit(classifier(), data, settings=Settings(**QUICK), resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        fit(classifier(), data, settings=Settings(**QUICK), folder=tmp_path / "file")


def test_a_class_that_the_teacher_rules_out_adds_nothing(tmp_path):
    net = Net(0)
    scores = net.node("Gemm", ["x", net.weight("w", WIDTH, CLASSES), net.weight("b", CLASSES)], "scores")
    ruled = np.array([0, 0, -np.inf, 0, 0], np.float32)
    net.node("Add", [scores, net.constant("ruled", ruled)], "logits")
    graph = net.graph([("x", FLOAT, ["batch", WIDTH])], [("logits", FLOAT, ["batch", CLASSES])])
    data = separable(tmp_path / "data", labels=None)
    fitted = fit(moved(graph, without="ruled"), data, settings=Settings(epochs=20, **QUICK), teacher=graph)
    assert fitted.history.losses[-1] < 0.2 * fitted.history.losses[0]


def test_sorted_data_are_looked_at_from_end_to_end(tmp_path):
    """The first of sorted samples need not show that outputs are scores of classes."""
    net = Net(0)
    net.node("Gemm", ["x", net.weight("w", WIDTH, CLASSES), net.weight("b", CLASSES)], "y")
    graph = net.graph([("x", FLOAT, ["batch", WIDTH])], [("y", FLOAT, ["batch", CLASSES])])
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.zeros((128, WIDTH)), rng.normal(size=(64, WIDTH))]).astype(np.float32)
    data = stored(tmp_path / "data", [{"x": row} for row in rows])
    fitted = fit(moved(graph), data, settings=Settings(held_back=0.1, **QUICK), teacher=graph)
    assert fitted.history.metric == "top-1 agreement"


def scattered() -> Graph:
    net = Net(0)
    x = net.node("MatMul", ["x", net.weight("w", 8, 8)], "m")
    places = net.constant("places", np.array([[0, 0], [0, 3]]))
    net.node("ScatterND", [x, places, net.weight("written", 2, 8)], "y")
    return net.graph([("x", FLOAT, ["batch", 6, 8])], [("y", FLOAT, ["batch", 6, 8])])


def convolved() -> Graph:
    net = Net(0)
    x = net.node("MatMul", ["x", net.weight("w", 8, 8)], "m")
    x = net.node("Conv", [x, net.weight("c", 4, 6, 3, fan_in=18), net.weight("b", 4)], "h")
    net.node("ConvTranspose", [x, net.weight("t", 4, 6, 3, fan_in=12)], "y")
    return net.graph([("x", FLOAT, ["batch", 6, 8])], [("y", FLOAT, ["batch", 6, 8])])


@pytest.mark.parametrize("made", [lstm, scattered, convolved])
def test_half_precision_trains_where_the_cpu_has_no_kernel_for_it(tmp_path, made):
    graph = made()
    settings = Settings(precision="bfloat16", epochs=4, **QUICK)
    fitted = fit(
        moved(graph), calibration_for(graph, tmp_path / "data", 32), settings=settings, teacher=graph
    )
    assert fitted.history.losses[-1] < fitted.history.losses[0]


def test_a_last_batch_of_one_number_a_channel_is_normalized_by_what_was_learned(tmp_path):
    net = Net(0)
    x = net.node("GlobalAveragePool", ["x"], "pooled")
    x = net.node("Conv", [x, net.weight("w1", 6, 3, 1, 1, fan_in=3)], "c1")
    net.node(
        "Flatten", [net.node("Conv", [net.node("Relu", [x], "r"), net.weight("w2", 4, 6, 1, 1)], "c2")], "y"
    )
    graph = net.graph([("x", FLOAT, ["batch", 3, 8, 8])], [("y", FLOAT, ["batch", 4])])
    rng = np.random.default_rng(0)
    data = stored(
        tmp_path / "data", [{"x": rng.normal(size=(3, 8, 8)).astype(np.float32)} for _ in range(17)]
    )
    fitted = fit(moved(graph), data, settings=Settings(normalize=True, **QUICK), teacher=graph)
    found = Evaluator(fitted.graph).run({"x": data.gather(range(4)).inputs["x"]})["y"]
    assert len(fitted.history.losses) == 6
    assert np.isfinite(found).all()


def by_chance() -> Graph:
    """A classifier with nodes that draw from seeds of their own, one of them within a branch."""
    net = Net(0)
    drawn = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["h"], ["n"], name="noise", scale=0.3, seed=1.0)],
        "branch",
        [],
        [helper.make_tensor_value_info("n", FLOAT, None)],
    )
    h = net.node("MatMul", ["x", net.weight("w1", WIDTH, 24)], "h")
    always = net.constant("always", np.asarray(True))
    noise = net.node("If", [always], "noisy", then_branch=drawn, else_branch=drawn)
    h = net.node("Add", [h, noise], "a")
    h = net.node("Dropout", [h, net.constant("ratio", np.float32(0.3))], "d", seed=7)
    net.node("MatMul", [h, net.weight("w2", 24, CLASSES)], "logits")
    return net.graph([("x", FLOAT, ["batch", WIDTH])], [("logits", FLOAT, ["batch", CLASSES])])


def test_what_nodes_draw_from_their_seeds_goes_on_from_a_checkpoint(tmp_path):
    data = separable(tmp_path / "data")
    settings = Settings(epochs=3, held_back=0.2, learn_statistics=True, checkpoint_every=4, **QUICK)
    given = {"settings": settings, "teacher": by_chance(), "folder": tmp_path / "run"}
    wanted = fit(by_chance(), data, **given)
    for path in checkpoint.found(tmp_path / "run")[:1]:
        (path / "model.safetensors").write_bytes(b"damaged")
    again = fit(by_chance(), data, **given, resume=True)
    assert again.notes[0].startswith("the checkpoint step-00000015 is damaged")
    assert again.history.to_json() == wanted.history.to_json()
    for name, value in again.graph.weights.items():
        assert np.array_equal(value.const_value.numpy(), wanted.graph.weights[name].const_value.numpy())


def test_a_sequence_of_one_may_come_first():
    outputs = [np.eye(4, dtype=np.float32)[:length] for length in (1, 3, 2)]
    labels = [np.arange(len(scores)) for scores in outputs]
    _, metric = from_labels({"y": outputs}, labels)
    batch = Batch({}, torch.from_numpy(labels[1][None]), (1,))
    assert metric.each({"y": torch.from_numpy(outputs[1][None])}, {}, batch).tolist() == [1.0]
