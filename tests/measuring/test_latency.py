"""Timing on real runtimes: verdicts, failures, what a round sees."""

import dataclasses
import json
import time

import numpy as np
import pytest
import scipy.stats

from hasten.core.errors import InputError, TrialError, WorkerError
from hasten.core.measurement import Measurement
from hasten.measuring import Conditions, Subject, time_interleaved
from hasten.measuring.feeds import choose_feeds
from hasten.measuring.latency import compare_rounds
from hasten.measuring.rounds import Clock, live
from hasten.measuring.statistics import process_interval

from . import models


def test_a_deeper_model_is_slower(subject_of, original, images, quick):
    deep = subject_of(models.classifier(depth=12), name="deep")
    shallow, slow = time_interleaved([original, deep], images, quick)
    assert shallow.speedup.ci95 == (1.0, 1.0)
    assert slow.speedup.verdict == "worse"
    assert slow.speedup.median < 0.7
    assert slow.latency_ms.median > shallow.latency_ms.median
    [_, fast] = time_interleaved([deep, original], images, quick)
    assert fast.speedup.verdict == "better"


def test_a_measurement_is_its_rounds(original, images, quick):
    conditions = dataclasses.replace(quick, rounds_min=10, rounds_max=10)
    [timing] = time_interleaved([original], images, conditions)
    found = timing.latency_ms
    assert found.unit == "ms"
    assert found.rounds == len(found.samples) == 10
    assert found.median == pytest.approx(np.median(found.samples))
    assert found.ci95[0] <= found.median <= found.ci95[1]
    assert 0 < found.median < 50
    # Rounds of 30 ms hold many runs of a tiny model, enough to know the tail.
    assert found.p90 is not None
    assert found.p90 >= found.median * 0.8
    assert Measurement.model_validate(json.loads(found.model_dump_json())) == found


@pytest.mark.slow
def test_the_same_model_twice_is_indistinguishable(original, images):
    verdicts = [
        time_interleaved([original, original], images, Conditions(threads=1, seed=seed, time_limit_s=6))[
            1
        ].speedup.verdict
        for seed in range(8)
    ]
    assert verdicts.count("indistinguishable") >= 7


def test_different_runtimes_are_timed_side_by_side(subject_of, original, images, quick):
    graph = models.classifier()
    timings = time_interleaved(
        [original, subject_of(graph, "openvino"), subject_of(graph, spinning=False)], images, quick
    )
    assert all(t.latency_ms.rounds == timings[0].latency_ms.rounds for t in timings)


def test_a_candidate_that_cannot_be_opened_fails_alone(subject_of, original, images, quick):
    broken = subject_of(models.classifier(), name="broken")
    entry = broken.folder / broken.artifact.entry
    entry.write_bytes(entry.read_bytes()[:100])
    good, bad, other = time_interleaved([original, broken, original], images, quick)
    assert isinstance(bad, TrialError)
    assert good.latency_ms.rounds == other.latency_ms.rounds > 0


def test_a_reference_that_fails_is_raised(original, images, quick, tmp_path):
    gone = Subject(original.artifact, tmp_path, "gone")
    with pytest.raises(TrialError, match="cannot open"):
        time_interleaved([gone, original], images, quick)


def test_a_process_that_dies_in_a_round_fails_alone(original, images, quick, monkeypatch):
    from hasten.measuring.workers import Lane

    clocks = [Clock(original), Clock(dataclasses.replace(original, name="mortal"))]
    asked = Lane.ask

    def ask(self, function, **arguments):
        if self.subject.name == "mortal" and function == "time_round" and arguments["number"] == 1:
            return self._worker.request("os:abort", {}, 10)
        return asked(self, function, **arguments)

    monkeypatch.setattr(Lane, "ask", ask)
    live(clocks, images, choose_feeds(images, quick), quick)
    assert isinstance(clocks[1].error, WorkerError)
    assert "SIGABRT" in str(clocks[1].error)
    assert clocks[0].error is None
    assert len(clocks[0].lives[0]) == quick.rounds_max


def test_a_process_that_hangs_is_ended(subject_of, original, images, quick, monkeypatch):
    from hasten.measuring.workers import Lane

    asked = Lane.ask

    def ask(self, function, **arguments):
        if self.subject.name == "stuck" and function == "warm_up":
            return self._worker.request("time:sleep", {"secs": 60}, self._timeout_s)
        return asked(self, function, **arguments)

    monkeypatch.setattr(Lane, "ask", ask)
    began = time.monotonic()
    conditions = dataclasses.replace(quick, timeout_s=8.0)
    good, bad = time_interleaved([original, dataclasses.replace(original, name="stuck")], images, conditions)
    assert isinstance(bad, TrialError)
    assert good.latency_ms.rounds > 0
    assert time.monotonic() - began < 50


def test_shapes_of_the_data_are_all_timed(subject_of, dataset, quick):
    rng = np.random.default_rng(0)
    data = dataset(tokens=[rng.integers(0, 10, size=n) for n in (3, 200, 3, 200, 3, 200, 3, 200)])
    conditions = dataclasses.replace(quick, rounds_min=10, rounds_max=10)
    [timing] = time_interleaved([subject_of(models.sequence())], data, conditions)
    assert timing.latency_ms.rounds == 10
    feeds = choose_feeds(data, conditions)
    assert {len(data.store.value("tokens", f[0])) for f in feeds} == {3, 200}


def test_batches_hold_equal_shapes(dataset):
    data = dataset(tokens=[np.zeros(n, np.int64) for n in (3, 4, 3, 4, 3, 4, 5)])
    feeds = choose_feeds(data, Conditions(batch=4, threads=1))
    assert all(len(f) == 4 for f in feeds)
    for numbers in feeds:
        assert len({len(data.store.value("tokens", i)) for i in numbers}) == 1
    assert choose_feeds(data, Conditions(batch=4, threads=1)) == feeds


def test_a_batch_is_timed_whole(subject_of, images, quick):
    graph = models.classifier(depth=40)
    subject = subject_of(graph)
    [one] = time_interleaved([subject], images, quick)
    [eight] = time_interleaved([subject], images, dataclasses.replace(quick, batch=8))
    assert eight.latency_ms.median > 1.5 * one.latency_ms.median


def test_a_fixed_batch_is_not_timed_as_another(subject_of, images, quick):
    subject = subject_of(models.classifier(batch=4))
    with pytest.raises(TrialError, match="batches of 4 only"):
        time_interleaved([subject], images, quick)
    [timing] = time_interleaved([subject], images, dataclasses.replace(quick, batch=4))
    assert timing.latency_ms.rounds > 0


def test_nothing_to_time_on(original, images, quick):
    with pytest.raises(TrialError, match="no samples"):
        time_interleaved([original], images.take(0), quick)


def test_time_is_limited(subject_of, images):
    deep = subject_of(models.classifier(depth=12))
    began = time.monotonic()
    conditions = Conditions(threads=1, rounds_min=90, precision=0.0, time_limit_s=1.0)
    [timing] = time_interleaved([deep], images, conditions)
    assert timing.latency_ms.rounds < 90
    assert time.monotonic() - began < 30


def test_progress_is_told(original, images, quick):
    told = []
    time_interleaved([original], images, quick, progress=lambda what, done: told.append((what, done)))
    assert told
    assert all(what == "timing" and 0 <= done <= 1 for what, done in told)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_throughput_with_several_callers(subject_of, images, quick, target):
    options = (
        {"threads": 1} if target == "onnxruntime" else {"mode": "throughput", "streams": 2, "threads": 2}
    )
    subject = subject_of(models.classifier(depth=6), target, **options)
    conditions = dataclasses.replace(quick, threads=2, time_limit_s=0.5, batch=16, throughput=True)
    alone, again = time_interleaved([subject, subject], images, conditions)
    # Samples, not batches, a second: a tenth of one caller alone is lost only if batches were counted.
    assert alone.throughput_per_s.median > 0.1 * 16 * 1000 / alone.latency_ms.median
    assert again.throughput_per_s.rounds == again.latency_ms.rounds
    assert 0.5 < again.throughput_gain.median < 2.0


def test_impossible_conditions_are_refused():
    for wrong in ({"batch": 0}, {"threads": 0}, {"rounds_min": 5, "rounds_max": 4}):
        with pytest.raises(InputError):
            Conditions(**wrong)


def test_the_verdict_is_of_the_interval():
    rng = np.random.default_rng(0)

    def lives(ratio):
        return [ratio * np.exp(rng.normal(0, 0.01, 10)) for _ in range(3)]

    assert compare_rounds(lives(1.3), 0).verdict == "better"
    assert compare_rounds(lives(0.8), 0).verdict == "worse"
    assert compare_rounds(lives(1.005), 0).verdict == "indistinguishable"
    found = compare_rounds(lives(1.3), 0)
    assert found.ci95[0] < 1.3 < found.ci95[1]


def test_process_interval_is_students_of_log_medians_with_the_prior():
    lives = [np.array([1.02, 1.03, 1.04]), np.array([0.99, 1.0, 1.01]), np.array([1.05, 1.06, 1.07])]
    logs = np.log([1.03, 1.0, 1.06])
    freedom = 3 + 2
    variance = (3 * 0.015**2 + np.sum((logs - logs.mean()) ** 2)) / freedom
    half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(variance / 3)
    low, high = process_interval(lives, 0)
    assert low == pytest.approx(min(np.exp(logs.mean() - half), low))
    assert low <= np.exp(logs.mean() - half) < np.exp(logs.mean() + half) <= high
    # The bootstrap of the rounds lies between the outermost of them.
    assert low > 0.95
    assert high < 1.12


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("luck", [0.0, 0.01, 0.015])
def test_process_interval_covers_when_processes_differ(count, luck):
    rng = np.random.default_rng(count)
    hits = 0
    for trial in range(200):
        lives = [np.exp(rng.normal(0, luck) + rng.normal(0, 0.02, 10)) for _ in range(count)]
        low, high = process_interval(lives, trial)
        hits += low <= 1.0 <= high
    # nominal 95 %; 200 trials spread by 1.5 points
    assert hits >= 0.91 * 200
