"""Parts that learn with the whole: the step is the mean of their gradients, and goes on from a checkpoint."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from hasten.bridge import to_torch
from hasten.core.errors import InputError
from hasten.train import Settings, checkpoint, fit
from tests.train.nets import WIDTH, Halves, classifier, separable

QUICK = {"learning_rate": 1e-2, "threads": 1, "batch_size": 16}
SOFT = 4.0


@pytest.fixture
def data(tmp_path):
    return separable(tmp_path / "data", count=16)


def test_a_step_is_that_of_the_mean_loss_of_the_whole_and_its_parts(data):
    settings = Settings(
        steps=1, optimizer="sgd", momentum=0.0, schedule="constant", warmup=0.0, clip_norm=None, **QUICK
    )
    parts, teacher = Halves(), classifier(seed=1)
    fitted = fit(classifier(), data, settings=settings, teacher=teacher, subnetworks=parts)
    x = torch.from_numpy(np.stack([data.store.value("x", i) for i in data.indices]))
    module = to_torch(classifier())
    weights = dict(module.named_parameters())

    def learns(given, wanted):
        soft = [functional.log_softmax(v / SOFT, dim=1) for v in (given, wanted.detach())]
        return SOFT**2 * functional.kl_div(*soft, reduction="batchmean", log_target=True)

    def run(mask):
        w1, b1 = (weights[n] * torch.from_numpy(mask[n]) if n in mask else weights[n] for n in ("w1", "b1"))
        hidden = torch.relu(x @ w1.T + b1)
        return hidden @ weights["w2"] + weights["b2"]

    assert x.shape[1] == WIDTH
    whole = run({})
    losses = [learns(whole, to_torch(teacher)(x)), *(learns(run(mask), whole) for mask in parts.masks(0))]
    loss = torch.stack(losses).mean()
    loss.backward()
    assert fitted.history.losses == pytest.approx([loss.item()], rel=1e-5)
    for name, weight in weights.items():
        stepped = (weight - settings.learning_rate * weight.grad).detach().numpy()
        np.testing.assert_allclose(
            fitted.graph.weights[name].const_value.numpy(), stepped, rtol=1e-5, atol=1e-6
        )


def test_a_batch_in_pieces_is_the_same_step(data):
    made = [
        fit(
            classifier(),
            data,
            settings=Settings(steps=3, accumulate=accumulate, **QUICK),
            teacher=classifier(seed=1),
            subnetworks=Halves(),
        ).history.losses
        for accumulate in (1, 4)
    ]
    assert made[0] == pytest.approx(made[1], rel=1e-4)


def test_a_training_that_goes_on_ends_with_the_same_weights(data, tmp_path):
    settings = Settings(steps=24, checkpoint_every=8, **QUICK)
    given = {"settings": settings, "teacher": classifier(seed=1), "folder": tmp_path / "kept"}
    whole = fit(classifier(), data, subnetworks=Halves(), **given)
    shutil.rmtree(checkpoint.found(tmp_path / "kept")[0])
    again = fit(classifier(), data, subnetworks=Halves(), resume=True, **given)
    assert again.history.losses == whole.history.losses
    assert again.graph.fingerprint == whole.graph.fingerprint
    with pytest.raises(InputError, match=r"subnetworks \(halves, True before, halves, False now\)"):
        fit(classifier(), data, subnetworks=Halves(drawn=False), resume=True, **given)


def test_only_graphs_that_learn_from_graphs_have_parts(data):
    with pytest.raises(InputError, match="subnetworks are of a graph"):
        fit(classifier(), data, settings=Settings(steps=1), subnetworks=Halves())
    module = to_torch(classifier())
    with pytest.raises(InputError, match="subnetworks are of a graph"):
        fit(module, data, settings=Settings(steps=1), teacher=classifier(), subnetworks=Halves())
