"""Training is proposed only with the means, the samples and the time for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hasten import data as data_room
from hasten import measuring, train
from hasten.core.data import split
from hasten.core.errors import ModelError, TrialError, Unavailable
from hasten.core.recipe import Step
from hasten.graph import Graph
from hasten.search.build import Training, Workshop, training_in_child
from hasten.search.learn import Learning, teaches
from tests.measuring.answers import answers
from tests.small_graphs import conv_net, feeds_of, mlp


def learning(samples: int, training: Callable[[], Training] = lambda: Training(0.17)) -> Learning:
    # Of the workshop it needs what a training costs.
    return Learning(SimpleNamespace(training=training), samples)  # type: ignore[arg-type]


def test_epochs_fill_the_time_there_is() -> None:
    little, much = (learning(1000).distill(seconds_left) for seconds_left in (300.0, 1e5))
    assert little is not None
    assert much is not None
    # 1000 samples at 0.17 s are 170 s an epoch, and 0.6 of the time is given.
    assert little.params["epochs"] == 1.1
    assert much.params["epochs"] == 30.0


def test_a_net_that_can_have_normalizations_learns_with_them() -> None:
    with_them = learning(1000, lambda: Training(0.17, 0.34)).finetune(300.0)
    without = learning(1000).finetune(300.0)
    assert with_them is not None
    assert without is not None
    assert with_them.params["normalize"] is True
    assert "normalize" not in without.params
    # It takes twice as long.
    assert (with_them.params["epochs"], without.params["epochs"]) == (0.5, 1.1)


def test_rounding_while_training_takes_longer() -> None:
    rounded, plain = learning(1000).quantize_aware(900.0), learning(1000).finetune(300.0)
    assert rounded is not None
    assert plain is not None
    assert rounded.params["epochs"] == plain.params["epochs"]


@pytest.mark.parametrize(
    ("samples", "seconds"),
    [(100, 1e5), (1000, 10.0), (1000, -1.0)],
    ids=["too few samples", "too little time", "too late"],
)
def test_where_it_would_not_pay_nothing_is_proposed(samples: int, seconds: float) -> None:
    assert learning(samples).quantize_aware(seconds) is None


def test_blocks_are_mended_where_there_is_time_for_all_of_them() -> None:
    # 400 samples at 0.17 s are 68 s, and 0.6 of the time is given.
    assert learning(100).reconstruct(120.0) == Step("reconstruct")
    assert learning(100).reconstruct(100.0) is None
    assert learning(20).reconstruct(1e5) is None


def test_what_cannot_be_trained_is_not_proposed() -> None:
    def refuses() -> Training:
        raise ModelError("no gradient for NonZero")

    assert learning(1000, refuses).distill(1e5) is None


def test_without_the_means_nothing_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"PyTorch, accelerate.*pip install 'hasten\[train\]'"):
        train.require()
    assert learning(1000).quantize_aware(1e5) is None
    assert learning(1000).reconstruct(1e5) is None


@pytest.mark.parametrize(("graph", "normalizes"), [(conv_net(), True), (mlp(), False)], ids=["conv", "mlp"])
def test_what_training_costs_is_measured_once(graph: Graph, normalizes: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    graph.write(tmp_path / "model.onnx")
    store, _ = data_room.ingest(feeds_of(graph, batch=40), graph.inputs, tmp_path / "store")
    split(store, seed=0).save()
    place = tmp_path / "model.onnx", tmp_path / "store", tmp_path / "work"
    workshop = Workshop(*place, {"seed": 0, "threads": 1, "batch": 1})
    try:
        first = workshop.training()
        assert 1e-6 < first.plain_s < 10
        assert (first.normalized_s is not None) is normalizes
        assert workshop.training() is first
    finally:
        workshop.close()


def test_a_training_that_only_fails_with_normalizations_leaves_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The fault: memory for the plain training, none for the larger one."""
    pytest.importorskip("torch")
    plain = train.seconds_per_sample

    def short_of_memory(*arguments: Any, normalize: bool = False, **more: Any) -> float:
        if normalize:
            raise TrialError("out of memory")
        return plain(*arguments, **more)

    graph = conv_net()
    graph.write(tmp_path / "model.onnx")
    store, _ = data_room.ingest(feeds_of(graph, batch=40), graph.inputs, tmp_path / "store")
    split(store, seed=0).save()
    monkeypatch.setattr(train, "seconds_per_sample", short_of_memory)
    found = training_in_child(str(tmp_path / "model.onnx"), str(tmp_path / "store"), {"threads": 1})
    assert set(found) == {"plain_s"}
    assert found["plain_s"] is not None
    assert 1e-6 < found["plain_s"] < 10


@pytest.mark.parametrize(("name", "taught"), [("mse", True), ("spearman", False)])
def test_labels_that_outputs_are_only_ranked_by_teach_nothing(
    name: str, taught: bool, tmp_path: Path
) -> None:
    feeds = feeds_of(conv_net(), batch=40)
    numbers = np.linspace(0, 5, 40, dtype=np.float32)
    stores = [
        data_room.ingest({**feeds, **labels}, conv_net().inputs, tmp_path / f"store{len(labels)}")[0]
        for labels in ({"labels": numbers}, {})
    ]
    with_labels, without = (split(store, seed=0).calibration for store in stores)
    given = answers(tmp_path, score=list(numbers[list(with_labels.indices)] / 5))  # type: ignore[no-untyped-call]
    metric = measuring.resolve(name, with_labels, given)
    assert teaches(with_labels, metric) is taught
    assert not teaches(without, metric)
