"""Answers of fresh processes, kept on disk."""

import dataclasses

import numpy as np
import pytest
from small_graphs import build

from hasten.core.errors import TrialError, WorkerError
from hasten.measuring import Subject, predict
from hasten.measuring.workers import Lane

from . import models


def stacked(answers, name):
    return np.stack(list(answers.values(name)))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 7])
def test_answers_are_the_models(target, batch, subject_of, images, quick, tmp_path):
    graph = models.classifier()
    answers = predict(subject_of(graph, target), images, dataclasses.replace(quick, batch=batch), tmp_path)
    pictures = np.stack([images.store.value("image", i) for i in images.indices])
    wanted = models.run(graph, image=pictures)["logits"]
    assert answers.outputs == ("logits",)
    assert len(answers) == len(images) == 40
    np.testing.assert_allclose(stacked(answers, "logits"), wanted, rtol=1e-3, atol=1e-4)


def test_the_cost_of_the_process_is_known(original, images, quick, tmp_path):
    answers = predict(original, images, quick, tmp_path)
    assert 0 < answers.load_ms < 10_000
    # Python, numpy and the runtime take some 80 MB; without onnx or torch it is far from 300.
    assert 30e6 < answers.peak_memory_bytes < 300e6


def test_a_larger_model_takes_more_memory(subject_of, original, dataset, quick, tmp_path):
    from onnx import TensorProto, helper

    weight = np.ones((4000, 4000), np.float32)  # 64 MB
    graph = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 4000])],
        [("y", TensorProto.FLOAT, ["n", 4000])],
        [("w", weight)],
    )
    data = dataset(x=np.zeros((2, 4000), np.float32), labels=np.zeros(2, int))
    small = predict(original, dataset(image=np.zeros((2, 3, 8, 8), np.float32)), quick, tmp_path)
    large = predict(subject_of(graph), data, quick, tmp_path)
    assert large.peak_memory_bytes - small.peak_memory_bytes > 0.9 * weight.nbytes


def test_what_was_answered_is_not_answered_again(original, images, quick, tmp_path, monkeypatch):
    first = predict(original, images, quick, tmp_path)

    def refuse(self, subject, conditions):
        raise AssertionError("a process was started")

    monkeypatch.setattr(Lane, "__init__", refuse)
    second = predict(original, images, quick, tmp_path)
    assert second.key == first.key
    assert second.load_ms == first.load_ms
    np.testing.assert_array_equal(stacked(second, "logits"), stacked(first, "logits"))


def test_other_data_options_batches_and_models_are_other_answers(subject_of, images, quick, tmp_path):
    graph = models.classifier()
    first = subject_of(graph)
    keys = {
        predict(s, d, c, tmp_path).key
        for s, d, c in (
            (first, images, quick),
            (first, images.take(5), quick),
            (first, images, dataclasses.replace(quick, batch=4)),
            (subject_of(graph, graph_level="basic"), images, quick),
            (subject_of(graph, "openvino"), images, quick),
            (subject_of(models.classifier(noise=0.1)), images, quick),
        )
    }
    assert len(keys) == 6
    assert predict(subject_of(graph), images, quick, tmp_path).key in keys


def test_samples_of_different_shapes(subject_of, dataset, quick, tmp_path):
    lengths = [3, 3, 5, 1, 1, 1]
    data = dataset(tokens=[np.arange(n) for n in lengths])
    answers = predict(subject_of(models.sequence()), data, dataclasses.replace(quick, batch=2), tmp_path)
    assert [v.shape for v in answers.values("logits")] == [(n, 4) for n in lengths]


@pytest.mark.parametrize("batch", [1, 8])
def test_models_without_a_batch_axis(batch, subject_of, dataset, quick, tmp_path):
    values = np.array([[1, -2, 3], [-1, -1, -1], [4, 5, 6]], np.float32)
    answers = predict(
        subject_of(models.unbatched()),
        dataset(x=values),
        dataclasses.replace(quick, batch=batch),
        tmp_path,
    )
    assert [v.size for v in answers.values("kept")] == [2, 0, 3]


def test_a_fixed_batch_is_filled_up(subject_of, images, quick, tmp_path):
    fixed = predict(subject_of(models.classifier(batch=3)), images, quick, tmp_path)
    free = predict(subject_of(models.classifier()), images, quick, tmp_path)
    assert len(fixed) == 40  # which 3 does not divide
    np.testing.assert_allclose(stacked(fixed, "logits"), stacked(free, "logits"), rtol=1e-3, atol=1e-4)


def test_an_output_without_batch_axis_needs_a_batch_of_one(subject_of, dataset, quick, tmp_path):
    from onnx import TensorProto, helper

    graph = build(
        [helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=0)],
        [("x", TensorProto.FLOAT, ["batch", 7])],
        [("total", TensorProto.FLOAT, [7])],
        [("axes", np.array([0]))],
    )
    data = dataset(x=np.ones((8, 7), np.float32))
    assert len(predict(subject_of(graph), data, quick, tmp_path)) == 8
    with pytest.raises(TrialError, match="batch of 1"):
        predict(subject_of(graph), data, dataclasses.replace(quick, batch=4), tmp_path)


def test_data_that_lack_an_input_say_so(original, dataset, quick, tmp_path):
    data = dataset(picture=np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(TrialError, match="input 'image' has no data"):
        predict(original, data, quick, tmp_path)


def test_nothing_is_left_of_answers_that_failed(original, dataset, quick, tmp_path):
    data = dataset(image=[np.zeros((3, 8, 8), np.float32), np.zeros((5, 8, 8), np.float32)])
    with pytest.raises(TrialError):
        predict(original, data, quick, tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_no_samples_are_a_trial_error(original, images, quick, tmp_path):
    with pytest.raises(TrialError, match="no samples"):
        predict(original, images.take(0), quick, tmp_path)


def test_a_process_that_dies_is_a_worker_error(original, images, quick, tmp_path, monkeypatch):
    asked = Lane.ask

    def ask(self, function, **arguments):
        if function == "continue_answers":
            return self._worker.request("os:abort", {}, 10)
        return asked(self, function, **arguments)

    monkeypatch.setattr(Lane, "ask", ask)
    with pytest.raises(WorkerError, match="SIGABRT"):
        predict(original, images, quick, tmp_path)


def test_missing_files_are_a_trial_error(original, images, quick, tmp_path):
    with pytest.raises(TrialError, match=r"model\.onnx"):
        predict(Subject(original.artifact, tmp_path, "moved"), images, quick, tmp_path / "work")


def test_bfloat16_answers_are_kept_as_float32(subject_of, dataset, quick, tmp_path):
    from onnx import TensorProto, helper

    graph = build(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
        [("x", TensorProto.FLOAT, ["n", 2])],
        [("y", TensorProto.BFLOAT16, ["n", 2])],
    )
    data = dataset(x=np.array([[1, 2.5], [3, 1 + 2**-12]], np.float32))
    for target in ("onnxruntime", "openvino"):
        answers = predict(subject_of(graph, target), data, quick, tmp_path)
        found = stacked(answers, "y")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [[1, 2.5], [3, 1]])


def test_an_output_without_batch_axis_that_is_as_long_as_a_batch(subject_of, dataset, quick, tmp_path):
    """Six samples in batches of four: the last two tell a constant of four rows from answers."""
    from onnx import TensorProto, helper

    graph = build(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["anchors"], ["boxes"])],
        [("x", TensorProto.FLOAT, ["batch", 7])],
        [("y", TensorProto.FLOAT, ["batch", 7]), ("boxes", TensorProto.FLOAT, [4, 2])],
        [("anchors", np.zeros((4, 2), np.float32))],
    )
    data = dataset(x=np.ones((6, 7), np.float32))
    with pytest.raises(TrialError, match=r"'boxes' has shape \(4, 2\) for a batch of 2"):
        predict(subject_of(graph), data, dataclasses.replace(quick, batch=4), tmp_path)
