"""Trainings from end to end: graphs and modules, labels and teachers, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch
from small_graphs import calibration_for, conv_net
from torch import nn

import hasten
from hasten.core.errors import DataError, InputError, OutputError, TrainingError
from hasten.graph.evaluate import Evaluator
from hasten.train import Event, Settings, checkpoint, fit
from hasten.train.history import History
from tests.train.nets import CLASSES, WIDTH, classifier, embedder, separable

QUICK = {"learning_rate": 1e-2, "threads": 1, "batch_size": 16}


@pytest.fixture
def data(tmp_path):
    return separable(tmp_path / "data")


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, CLASSES))


def test_a_graph_learns_labels_and_its_weights_go_back(data):
    graph = classifier()
    before = graph.fingerprint
    fitted = fit(graph, data, settings=Settings(epochs=15, held_back=0.2, **QUICK))
    assert graph.fingerprint == before
    assert fitted.history.losses[-1] < 0.3 * fitted.history.losses[0]
    assert fitted.history.metric == "accuracy"
    assert fitted.history.evaluations[-1].metric > 0.9
    assert fitted.why == "all 75 steps were done"
    x = data.gather(range(8)).inputs["x"]
    found = Evaluator(fitted.graph).run({"x": x})["logits"]
    with torch.no_grad():
        np.testing.assert_allclose(found, fitted.module(torch.from_numpy(x)), rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_losses_and_another_does_not(data):
    runs = [fit(classifier(), data, settings=Settings(epochs=2, seed=s, **QUICK)) for s in (0, 0, 1)]
    assert runs[0].history.losses == runs[1].history.losses != runs[2].history.losses
    assert runs[0].graph.fingerprint == runs[1].graph.fingerprint


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_parts_equal_the_whole_batch(data, optimizer):
    settings = {**QUICK, "epochs": 3, "batch_size": 24, "optimizer": optimizer}
    whole, parts = (
        fit(classifier(), data, settings=Settings(accumulate=n, **settings)).history.losses for n in (1, 4)
    )
    # Sums of float32 in another order, over 12 steps.
    np.testing.assert_allclose(parts, whole, rtol=1e-4)


def one_number(module_: nn.Module) -> nn.Module:
    """The first score alone, a sample's output being one number: (samples,)."""
    return nn.Sequential(module_, nn.Flatten(), _First())


class _First(nn.Module):
    def forward(self, x):
        return x[:, 0]


@pytest.mark.parametrize("labels", ["numbers", "yes or no", None])
def test_a_sample_may_be_answered_with_one_number(tmp_path, labels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, WIDTH)).astype(np.float32)
    arrays = {"x": x}
    if labels == "numbers":
        arrays["labels"] = (x[:, 0] + 0.5).astype(np.float32)
    if labels == "yes or no":
        arrays["labels"] = (x[:, 0] > 0).astype(np.int64)
    teacher = one_number(module(1)).eval() if labels is None else None
    settings = Settings(epochs=20, held_back=0.2, learn_statistics=False, **QUICK)
    fitted = hasten.fit(one_number(module()), arrays, teacher=teacher, settings=settings)
    assert fitted.history.losses[-1] < 0.5 * fitted.history.losses[0]


def test_a_module_is_trained_in_place_with_its_statistics(data):
    made = module()
    fitted = fit(made, data, settings=Settings(epochs=10, **QUICK))
    assert fitted.module is made
    assert fitted.graph is None
    assert fitted.history.losses[-1] < 0.5 * fitted.history.losses[0]
    assert float(made[1].running_mean.abs().sum()) > 0
    kept = module()
    fit(kept, data, settings=Settings(epochs=1, learn_statistics=False, **QUICK))
    assert float(kept[1].running_mean.abs().sum()) == 0


def test_a_student_learns_from_its_teacher_without_labels(tmp_path):
    data = separable(tmp_path / "plain", labels=None)
    fitted = fit(
        classifier(1),
        data,
        teacher=classifier(0, hidden=32),
        settings=Settings(epochs=40, held_back=0.2, **QUICK),
    )
    first, last = fitted.history.evaluations[0], fitted.history.evaluations[-1]
    assert fitted.history.metric == "top-1 agreement"
    assert last.metric > max(0.85, first.metric)
    assert last.loss < 0.2 * first.loss


def test_an_embedding_is_learned_by_direction_and_relations(tmp_path):
    data = separable(tmp_path / "plain", labels=None)
    settings = Settings(epochs=30, held_back=0.2, **QUICK)
    fitted = fit(embedder(1), data, teacher=embedder(0), settings=settings)
    assert set(fitted.history.steps[0].parts) == {"teacher", "relations"}
    assert fitted.history.metric == "cosine agreement"
    assert fitted.history.evaluations[-1].metric > 0.9


@pytest.mark.parametrize("features", ["matched", ("r1",)])
def test_features_are_learned_at_matched_or_named_values(data, features):
    settings = Settings(epochs=20, features=features, alpha=0.3, **QUICK)
    fitted = fit(classifier(1), data, teacher=classifier(0), settings=settings)
    assert set(fitted.history.steps[0].parts) == {"labels", "teacher", "features"}
    column = [row.parts["features"] for row in fitted.history.steps]
    assert column[-1] < 0.7 * column[0]


def test_features_of_modules_are_their_submodules(data):
    teacher = module(0).eval()
    student = module(1)
    before = copy.deepcopy(teacher.state_dict())
    fitted = fit(student, data, teacher=teacher, settings=Settings(epochs=10, features=("2",), **QUICK))
    assert fitted.history.losses[-1] < 0.7 * fitted.history.losses[0]
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_numbers_as_labels_and_a_loss_of_the_users(tmp_path):
    data = separable(tmp_path / "numbers", labels="numbers")
    fitted = fit(classifier(), data, settings=Settings(epochs=20, held_back=0.1, **QUICK))
    assert fitted.history.metric == "1 - normalized error"
    assert fitted.history.losses[-1] < 0.3 * fitted.history.losses[0]

    def absolute(outputs, batch):
        return (outputs["logits"] - batch.labels).abs().mean()

    fitted = fit(classifier(), data, loss=absolute, settings=Settings(epochs=20, **QUICK))
    assert set(fitted.history.steps[0].parts) == {"loss"}
    assert fitted.history.losses[-1] < 0.6 * fitted.history.losses[0]


def test_bfloat16_converges_like_float32(data):
    losses = [
        fit(classifier(), data, settings=Settings(epochs=15, precision=p, **QUICK)).history.losses
        for p in ("float32", "bfloat16")
    ]
    assert losses[1][-1] < 0.3 * losses[1][0]
    assert losses[0] != losses[1]
    # 8 significant bits: a relative 2**-8 in each product, a few of them from input to loss.
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.03)


def test_early_stopping_keeps_the_best_weights(tmp_path):
    # Labels drawn at random are learned by heart, which makes those of the others less likely.
    data = separable(tmp_path / "random", labels="random")
    settings = Settings(epochs=200, held_back=0.3, patience=3, **QUICK)
    fitted = fit(classifier(), data, settings=settings)
    assert "no better in 3 evaluations" in fitted.why
    rows = fitted.history.evaluations
    best = min(rows, key=lambda row: row.loss)
    assert fitted.best_step == best.step
    assert len(fitted.history.steps) == rows[-1].step < 200 * 5
    assert [row.loss > best.loss for row in rows[-3:]] == [True] * 3
    from hasten.train.order import hold_back

    _, held = hold_back(data.indices, 0.3, 0)
    batch = data.gather(held)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(
            fitted.module(torch.from_numpy(batch.inputs["x"])), torch.from_numpy(batch.labels)
        )
    assert float(loss) == pytest.approx(best.loss, rel=1e-4)


def test_what_makes_nothing_better_leaves_the_weights(tmp_path):
    data = separable(tmp_path / "random", labels="random")
    good = classifier()
    worse = Settings(epochs=2, held_back=0.2, **{**QUICK, "learning_rate": 30.0})
    fitted = fit(good, data, settings=worse)
    assert fitted.best_step == 0
    assert fitted.graph.fingerprint == good.fingerprint


def test_only_matching_weights_are_trained(data):
    fitted = fit(classifier(), data, settings=Settings(epochs=1, trainable="*2", **QUICK))
    assert set(fitted.trained) == {"w2", "b2"}
    assert set(fitted.frozen) == {"w1", "b1"}
    before, after = classifier().weights, fitted.graph.weights
    same = {n: np.array_equal(before[n].const_value.numpy(), after[n].const_value.numpy()) for n in before}
    assert same == {"w1": True, "b1": True, "w2": False, "b2": False}


def test_several_patterns_name_the_weights_to_train(data):
    fitted = fit(classifier(), data, settings=Settings(epochs=1, trainable=("w1", "b?"), **QUICK))
    assert set(fitted.trained) == {"w1", "b1", "b2"}
    assert fitted.frozen == {"w2": "does not match w1 or b?"}
    with pytest.raises(ValueError, match="trainable has no pattern"):
        Settings(trainable=())


def test_a_run_of_several_patterns_goes_on(tmp_path, data):
    settings = Settings(steps=6, checkpoint_every=3, trainable=("w1", "b?"), **QUICK)
    whole = fit(classifier(), data, settings=settings, folder=tmp_path)
    again = fit(classifier(), data, settings=settings, folder=tmp_path, resume=True)
    assert again.graph.fingerprint == whole.graph.fingerprint
    other = Settings(steps=6, checkpoint_every=3, trainable="w1", **QUICK)
    with pytest.raises(InputError, match="trainable"):
        fit(classifier(), data, settings=other, folder=tmp_path, resume=True)


def test_convolutions_with_augmented_pictures(tmp_path):
    graph = conv_net()
    data = calibration_for(graph, tmp_path / "data", 32)
    settings = Settings(epochs=3, augment=("flip", "crop"), **QUICK)
    fitted = fit(graph, data, settings=settings)
    again = fit(graph, data, settings=settings)
    assert fitted.history.losses == again.history.losses
    assert fitted.history.losses[-1] < fitted.history.losses[0]
    for name in ("mean", "var"):
        np.testing.assert_array_equal(
            fitted.graph.weights[name].const_value.numpy(), graph.weights[name].const_value.numpy()
        )


def test_with_relative_rates_a_net_learns_alike_however_its_layers_share_their_size(data):
    """relu(a x) = a relu(x) for a > 0: two nets that answer alike, one with weights 64 times apart."""
    apart = classifier()
    for name, factor in (("w1", 1 / 64), ("b1", 1 / 64), ("w2", 64)):
        value = apart.weights[name]
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    settings = {"epochs": 3, "clip_norm": None, "weight_decay": 0.01, **QUICK}
    losses = {
        relative: [
            fit(graph, data, settings=Settings(relative=relative, **settings)).history.losses
            for graph in (classifier(), apart)
        ]
        for relative in (True, False)
    }
    np.testing.assert_allclose(*losses[True], rtol=1e-3)
    assert losses[True][0][-1] < 0.7 * losses[True][0][0]
    assert abs(losses[False][0][-1] - losses[False][1][-1]) > 0.1 * losses[False][0][-1]
    with pytest.raises(ValueError, match="relative is for adamw"):
        Settings(optimizer="sgd", relative=True)


def test_events_say_how_far_it_is(data):
    events: list[Event] = []
    fit(classifier(), data, settings=Settings(steps=25, held_back=0.1, **QUICK), listener=events.append)
    assert events[-1].step == events[-1].steps == 25
    assert any(event.evaluation for event in events)
    assert any(event.seconds_left is not None for event in events)


def test_the_random_states_of_the_caller_are_left(data):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    fit(classifier(), data, settings=Settings(steps=2, **QUICK))
    assert torch.equal(before, torch.get_rng_state())


def test_hasten_fit_takes_arrays_and_files(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(48, WIDTH)).astype(np.float32), "labels": rng.integers(0, CLASSES, 48)}
    classifier().write(tmp_path / "model.onnx")
    fitted = hasten.fit(tmp_path / "model.onnx", arrays, settings=Settings(epochs=3, **QUICK))
    assert fitted.graph is not None
    assert len(fitted.history.steps) == 9
    fitted = hasten.fit(module(), arrays, settings=Settings(epochs=3, **QUICK))
    assert len(fitted.history.steps) == 9


def test_a_damaged_checkpoint_is_passed_over(data, tmp_path):
    settings = Settings(epochs=5, checkpoint_every=10, **QUICK)
    whole = fit(classifier(), data, settings=settings, folder=tmp_path / "kept")
    newest = checkpoint.found(tmp_path / "kept")[0]
    payload = bytearray((newest / "model.safetensors").read_bytes())
    payload[-1] ^= 1
    (newest / "model.safetensors").write_bytes(payload)
    again = fit(classifier(), data, settings=settings, folder=tmp_path / "kept", resume=True)
    assert again.history.losses == whole.history.losses
    assert again.graph.fingerprint == whole.graph.fingerprint
    assert newest.name in again.notes[0]
    assert "damaged" in again.notes[0]


def test_nothing_in_a_checkpoint_is_pickled(data, tmp_path):
    fit(
        classifier(),
        data,
        settings=Settings(steps=3, held_back=0.1, ema=0.9, **QUICK),
        folder=tmp_path / "kept",
    )
    [kept] = checkpoint.found(tmp_path / "kept")
    assert {path.suffix for path in kept.iterdir()} == {".json", ".safetensors", ".sha256"}
    read = checkpoint.read(kept, torch.device("cpu"))
    assert set(read.tensors) == {"model", "ema", "best", "optimizer", "random"}
    assert History.from_json(read.state["history"]).losses == read.state["history"]["loss"]


def test_a_training_goes_on_only_with_the_same_settings(data, tmp_path):
    settings = Settings(steps=3, **QUICK)
    fit(classifier(), data, settings=settings, folder=tmp_path / "kept")
    with pytest.raises(OutputError, match="resume=True"):
        fit(classifier(), data, settings=settings, folder=tmp_path / "kept")
    other = Settings(steps=3, **{**QUICK, "learning_rate": 0.5})
    with pytest.raises(InputError, match=r"learning_rate \(0.01 before, 0.5 now\)"):
        fit(classifier(), data, settings=other, folder=tmp_path / "kept", resume=True)
    with pytest.raises(InputError, match="model"):
        fit(classifier(8), data, settings=settings, folder=tmp_path / "kept", resume=True)


def test_what_cannot_be_trained_is_said(tmp_path, data):
    plain = separable(tmp_path / "plain", labels=None)
    with pytest.raises(InputError, match="nothing to learn from"):
        fit(classifier(), plain)
    with pytest.raises(InputError, match="no weight to train"):
        fit(classifier(), data, settings=Settings(trainable="nothing*"))
    with pytest.raises(TrainingError, match="lower learning_rate"):
        fit(
            classifier(),
            data,
            settings=Settings(epochs=30, optimizer="sgd", clip_norm=None, learning_rate=1e9),
        )
    with pytest.raises(DataError, match="no picture to augment"):
        fit(classifier(), data, settings=Settings(augment=("flip",)))
    with pytest.raises(InputError, match="cannot be paired"):
        fit(classifier(), data, teacher=hasten.read(_two_outputs(tmp_path)))
    own = module()
    with pytest.raises(InputError, match="cannot teach itself"):
        fit(own, data, teacher=own)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no cuda device"):
            fit(classifier(), data, settings=Settings(device="cuda"))
        with pytest.raises(InputError, match="on a GPU only"):
            fit(classifier(), data, settings=Settings(precision="float16"))


def _two_outputs(folder):
    from onnx import TensorProto
    from small_graphs import Net

    net = Net()
    net.node("MatMul", ["x", net.weight("w", WIDTH, CLASSES)], "first")
    net.node("Relu", ["first"], "second")
    shape = ["batch", CLASSES]
    graph = net.graph(
        [("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [("first", TensorProto.FLOAT, shape), ("second", TensorProto.FLOAT, shape)],
    )
    graph.write(folder / "two.onnx")
    return folder / "two.onnx"
