"""Everything about every subject, side by side."""

import dataclasses
import time

import numpy as np
import pytest
import zstandard

from hasten.core.budget import Budget
from hasten.core.errors import DataError, InputError, TrialError
from hasten.core.record import Scorecard
from hasten.measuring import Subject, compare, predict, resolve, sizes

from . import models


def test_a_scorecard_holds_everything(original, subject_of, images, quick, tmp_path):
    noisy = subject_of(models.classifier(noise=2.0), name="noisy")
    again = subject_of(models.classifier(), "openvino", name="again")
    first, second, third = compare([original, noisy, again], images, "accuracy", quick, tmp_path)
    assert first.quality.value == pytest.approx(32 / 40)
    assert first.quality.drop == 0
    assert first.speedup.verdict == "indistinguishable"
    assert second.quality.budget == "missed"
    assert second.quality.flips.lost > 0
    assert third.quality.value == first.quality.value
    for card in (first, second, third):
        assert card.latency_ms.median > 0
        assert card.load_ms > 0
        assert card.peak_memory_bytes > 0
        assert card.size_zstd_bytes <= card.size_bytes
        assert card.throughput_per_s is None
        assert Scorecard.model_validate_json(card.model_dump_json()) == card


def test_without_labels_it_is_agreement(original, subject_of, dataset, images, quick, tmp_path):
    data = dataset(image=[images.store.value("image", i) for i in images.indices])
    _, second = compare([original, subject_of(models.classifier(noise=0.5))], data, None, quick, tmp_path)
    assert second.quality.metric == "top-1 agreement"
    assert second.quality.reference == 1.0
    assert second.quality.value < 1.0


def test_a_subject_that_fails_leaves_the_others(original, subject_of, images, quick, tmp_path):
    gone = Subject(original.artifact, tmp_path, "gone")
    first, failed, third = compare([original, gone, original], images, None, quick, tmp_path / "work")
    assert isinstance(failed, TrialError)
    assert isinstance(first, Scorecard)
    assert isinstance(third, Scorecard)


def test_outputs_that_cannot_be_judged_fail_their_subject(original, subject_of, images, quick, tmp_path):
    other = subject_of(models.classifier(classes=7))
    _, failed = compare([original, other], images, "accuracy", quick, tmp_path)
    assert isinstance(failed, TrialError)


def test_a_reference_that_fails_is_raised(original, images, quick, tmp_path):
    with pytest.raises(TrialError):
        compare([Subject(original.artifact, tmp_path, "gone"), original], images, None, quick, tmp_path / "w")


def test_faults_of_the_request_are_raised(original, images, quick, tmp_path):
    with pytest.raises(InputError, match="at least one"):
        compare([], images, None, quick, tmp_path)
    with pytest.raises(InputError, match="unknown metric"):
        compare([original], images, "acc", quick, tmp_path)
    with pytest.raises(DataError):
        compare([original], images, "top5", quick, tmp_path)


def test_a_metric_already_resolved_is_taken(original, images, quick, tmp_path):
    metric = resolve("f1", images, predict(original, images, quick, tmp_path))
    [card] = compare([original], images, metric, quick, tmp_path, budget=Budget(max_drop=0.5))
    assert card.quality.metric == "f1 macro"
    assert card.quality.allowed == pytest.approx(0.5 * card.quality.value)


def test_throughput_is_measured_when_asked(original, images, quick, tmp_path):
    conditions = dataclasses.replace(quick, throughput=True, time_limit_s=0.5)
    [card] = compare([original], images, None, conditions, tmp_path)
    assert card.throughput_per_s.unit == "1/s"
    assert card.throughput_per_s.median > 10
    assert card.throughput_gain.median == 1.0


def test_sizes_are_of_all_files(subject_of):
    subject = subject_of(models.classifier(), "openvino")
    files = [subject.folder / f.path for f in subject.artifact.files]
    total, packed = sizes(subject.artifact, subject.folder)
    assert total == sum(f.stat().st_size for f in files) == subject.artifact.size_bytes
    plain = sum(len(zstandard.ZstdCompressor(level=9).compress(f.read_bytes())) for f in files)
    assert packed == pytest.approx(plain, rel=0.05)


def test_zeros_compress(subject_of):
    graph = models.classifier(depth=3)
    dense = sizes(*_of(subject_of(graph)))
    for value in graph.weights.values():
        import onnx_ir as ir

        value.const_value = ir.tensor(np.zeros_like(value.const_value.numpy()), name=value.name)
    sparse = sizes(*_of(subject_of(graph)))
    assert sparse[0] == pytest.approx(dense[0], rel=0.01)
    assert sparse[1] < 0.2 * dense[1]


def test_a_missing_file_has_no_size(original, tmp_path):
    with pytest.raises(TrialError, match="No such file"):
        sizes(original.artifact, tmp_path)


def _of(subject):
    return subject.artifact, subject.folder


@pytest.mark.slow
def test_a_comparison_is_quick(original, images, tmp_path):
    from hasten.measuring import Conditions

    began = time.monotonic()
    compare([original, original], images, None, Conditions(threads=1), tmp_path)
    assert time.monotonic() - began < 40  # about 10 s where nothing else runs
