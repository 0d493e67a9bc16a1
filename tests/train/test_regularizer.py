"""What is done to weights after each step: exact across checkpoints, said where it does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
import torch

from hasten.core.errors import InputError
from hasten.graph import Graph
from hasten.train import Settings, checkpoint, fit
from hasten.train.regularizer import Pace
from tests.train.nets import classifier, separable

QUICK = {"learning_rate": 1e-2, "threads": 1, "batch_size": 16}


class Shorter:
    """Makes one weight shorter at every step, and remembers the pace for the test alone."""

    def __init__(self, by: float = 0.05, final: bool = True) -> None:
        self.identity = f"shorter by {by}"
        self.final = final
        self.by = by
        self.seen: list[tuple[int, int, float]] = []

    def after_step(self, weights: Mapping[str, torch.Tensor], pace: Pace) -> None:
        weights["w1"].mul_(1 - self.by)
        self.seen.append((pace.step, len(pace.rates), pace.rates[pace.step]))


@pytest.fixture
def data(tmp_path):
    return separable(tmp_path / "data")


def array(graph: Graph, name: str) -> np.ndarray:
    return graph.weights[name].const_value.numpy()


def test_it_acts_after_every_step_and_knows_the_pace(data):
    regularizer = Shorter(0.5)
    fitted = fit(classifier(), data, settings=Settings(steps=12, **QUICK), regularizer=regularizer)
    assert [step for step, _, _ in regularizer.seen] == list(range(12))
    assert {steps for _, steps, _ in regularizer.seen} == {12}
    rates = [row.learning_rate for row in fitted.history.steps]
    np.testing.assert_allclose([rate for _, _, rate in regularizer.seen], np.array(rates) / 1e-2)
    assert np.abs(array(fitted.graph, "w1")).max() < 0.05
    assert np.abs(array(fitted.graph, "w2")).max() > 0.1


@pytest.mark.parametrize("final", [True, False])
def test_the_last_weights_count_where_it_asks_for_more_each_step(data, final):
    settings = Settings(steps=30, held_back=0.2, evaluate_every=5, **QUICK)
    fitted = fit(classifier(), data, settings=settings, regularizer=Shorter(0.9, final))
    rows = fitted.history.evaluations
    best = min(rows, key=lambda row: row.loss).step
    assert best < 30
    assert fitted.best_step == (30 if final else best)


def test_a_training_that_goes_on_ends_with_the_same_weights(data, tmp_path):
    settings = Settings(steps=24, checkpoint_every=8, ema=0.9, keep_zeros=True, **QUICK)
    whole = fit(classifier(), data, settings=settings, regularizer=Shorter(), folder=tmp_path / "kept")
    shutil.rmtree(checkpoint.found(tmp_path / "kept")[0])
    again = fit(
        classifier(), data, settings=settings, regularizer=Shorter(), folder=tmp_path / "kept", resume=True
    )
    assert again.history.losses == whole.history.losses
    assert again.graph.fingerprint == whole.graph.fingerprint
    with pytest.raises(InputError, match=r"regularizer \(shorter by 0.05 before, shorter by 0.1 now\)"):
        fit(
            classifier(),
            data,
            settings=settings,
            regularizer=Shorter(0.1),
            folder=tmp_path / "kept",
            resume=True,
        )


def test_patience_does_not_go_with_one_whose_last_weights_count(data):
    settings = Settings(steps=5, held_back=0.2, patience=2, **QUICK)
    with pytest.raises(InputError, match="leave it out"):
        fit(classifier(), data, settings=settings, regularizer=Shorter())
    assert fit(classifier(), data, settings=settings, regularizer=Shorter(final=False)).history.steps


@pytest.mark.parametrize("ema", [None, 0.8])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_zeros_of_weights_are_kept_and_those_of_biases_learn(data, optimizer, ema):
    graph = classifier()
    zero = np.random.default_rng(0).random(array(graph, "w1").shape) < 0.5
    weight = np.where(zero, 0, array(graph, "w1")).astype(np.float32)
    graph.weights["w1"].const_value = ir.tensor(weight, name="w1")
    graph.weights["b1"].const_value = ir.tensor(np.zeros_like(array(graph, "b1")), name="b1")
    settings = {**QUICK, "steps": 20, "optimizer": optimizer, "ema": ema}
    kept, filled = (
        fit(graph, data, settings=Settings(keep_zeros=keep, **settings)).graph for keep in (True, False)
    )
    assert (array(kept, "w1")[zero] == 0).all()
    assert (array(kept, "w1")[~zero] != weight[~zero]).any()
    assert (array(kept, "b1") != 0).any()
    assert (array(filled, "w1")[zero] != 0).any()
