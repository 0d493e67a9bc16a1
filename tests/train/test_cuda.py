"""The same on a GPU; skipped where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_graphs import calibration_for, conv_net

from hasten.train import Settings, checkpoint, fit
from tests.train.nets import classifier, finish, result, run_program, separable

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
QUICK = {"learning_rate": 1e-2, "batch_size": 16}


@pytest.fixture
def data(tmp_path):
    return separable(tmp_path / "data")


def test_losses_are_those_of_the_cpu(data):
    losses = [
        fit(
            classifier(1),
            data,
            teacher=classifier(),
            settings=Settings(epochs=3, device=device, features="matched", **QUICK),
        ).history.losses
        for device in ("cpu", "cuda")
    ]
    # TF32 is off by default for products; sums differ in order over 18 steps.
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_converges(tmp_path, precision):
    graph = conv_net()
    data = calibration_for(graph, tmp_path / "data", 32)
    settings = Settings(epochs=40, precision=precision, held_back=0.1, ema=0.9, **QUICK)
    fitted = fit(graph, data, settings=settings, folder=tmp_path / "kept")
    assert all(math.isfinite(loss) for loss in fitted.history.losses[-20:])
    assert fitted.history.losses[-1] < 0.5 * fitted.history.losses[0]
    kept = checkpoint.read(checkpoint.found(tmp_path / "kept")[0], torch.device("cuda"))
    assert (kept.state["scaler"] is not None) == (precision == "float16")
    assert next(fitted.module.parameters()).device.type == "cpu"


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_training_goes_on_from_a_checkpoint(data, tmp_path, precision):
    settings = Settings(epochs=6, checkpoint_every=10, precision=precision, **QUICK)
    whole = fit(classifier(), data, settings=settings, folder=tmp_path / "kept")
    newest = checkpoint.found(tmp_path / "kept")[0]
    (newest / "state.json").unlink()
    again = fit(classifier(), data, settings=settings, folder=tmp_path / "kept", resume=True)
    np.testing.assert_allclose(again.history.losses, whole.history.losses, rtol=1e-4)


def test_torchrun_uses_nccl(tmp_path):
    separable(tmp_path / "data")
    case = {
        "folder": str(tmp_path / "one"),
        "data": str(tmp_path / "data"),
        "settings": {"epochs": 2, **QUICK},
    }
    (tmp_path / "one").mkdir()
    finish(run_program({**case, "torchrun": True}, 1))
    assert len(result(tmp_path / "one")["loss"]) == 12
