"""Each number of a training against a plain reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from hasten.core.data import Calibration, StoreWriter
from hasten.train import losses, optimizer
from hasten.train.losses import softened_divergence
from hasten.train.objective import Objective, Part, Term
from hasten.train.order import Order, hold_back, share
from hasten.train.samples import Batch, Samples, _box
from hasten.train.schedule import factor
from hasten.train.settings import Settings
from hasten.train.weights import Average
from tests.train.nets import separable

RNG = np.random.default_rng(0)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softened_divergence_against_numpy(temperature):
    student, teacher = RNG.normal(size=(2, 6, 3, 10)) * 5
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    wanted = temperature**2 * np.sum(p * (np.log(p) - np.log(q)), axis=-1).mean(axis=1)
    found = softened_divergence(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10)


def test_the_gradient_of_softened_scores_keeps_its_size():
    """For high T the gradient tends to (z_s - z_t) / n, whatever T (Hinton et al. 2015, equation 4)."""
    student = torch.from_numpy(RNG.normal(size=(1, 1, 8))).requires_grad_()
    teacher = torch.from_numpy(RNG.normal(size=(1, 1, 8)))
    softened_divergence(student, teacher, 1e4).sum().backward()
    centred = [z.detach() - z.detach().mean() for z in (student, teacher)]
    assert student.grad is not None
    np.testing.assert_allclose(student.grad, (centred[0] - centred[1]) / 8, rtol=2e-3, atol=1e-6)


def test_cross_entropy_leaves_out_what_is_not_labelled():
    scores = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    labels = np.array([[1, -1, 3], [-1, -1, -1]])
    log = np.log(softmax(scores))
    wanted = [-(log[0, 0, 1] + log[0, 2, 3]) / 2, 0.0]
    found = losses.cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("scale", ["logits", "probabilities"])
def test_binary_cross_entropy_of_logits_and_probabilities(scale):
    z = RNG.normal(size=(5, 1)).astype(np.float32)
    y = np.array([[0], [1], [1], [0], [-1]])
    p = 1 / (1 + np.exp(-z))
    wanted = np.where(y < 0, 0, -(y * np.log(p) + (1 - y) * np.log(1 - p)))[:, 0]
    given = torch.from_numpy(z if scale == "logits" else p)
    np.testing.assert_allclose(
        losses.binary_cross_entropy(given, torch.from_numpy(y), scale), wanted, rtol=1e-4, atol=1e-6
    )


def test_probabilities_are_read_as_their_logarithm():
    z = torch.from_numpy(RNG.normal(size=(3, 1, 5)).astype(np.float32))
    again = losses.logits(torch.softmax(z, dim=-1), "probabilities")
    np.testing.assert_allclose(torch.softmax(again, -1), torch.softmax(z, -1), rtol=1e-6)


def test_squared_error_counts_finite_values_only():
    ours = torch.tensor([[1.0, 2.0], [0.0, 5.0]])
    theirs = torch.tensor([[3.0, 2.0], [1.0, -torch.inf]])
    np.testing.assert_allclose(losses.squared_error(ours, theirs, 2.0), [1.0, 0.5])


def test_relations_and_attention_against_numpy():
    a, b = RNG.normal(size=(2, 6, 4))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b)]
    wanted = np.mean((unit[0] @ unit[0].T - unit[1] @ unit[1].T) ** 2)
    found = losses.relations(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(float(found), wanted, rtol=1e-5)
    a, b = RNG.normal(size=(2, 3, 7, 4, 4))
    maps = [np.mean(v**2, axis=1).reshape(3, -1) for v in (a, b)]
    maps = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    found = losses.attention_distance(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, np.sum((maps[0] - maps[1]) ** 2, axis=1), rtol=1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedule_against_its_closed_form(schedule):
    steps, rising = 200, 20
    for step in range(steps):
        p = (step - rising) / (steps - rising)
        after = {"cosine": (1 + math.cos(math.pi * p)) / 2, "linear": 1 - p, "constant": 1.0}[schedule]
        wanted = (step + 1) / rising if step < rising else after
        assert factor(schedule, step, steps, 0.1) == pytest.approx(wanted, rel=1e-12)


def test_average_against_its_recursion():
    module = nn.Linear(3, 2)
    average = Average(module, 0.9)
    expected = module.weight.detach().numpy().astype(np.float64).copy()
    for t in range(1, 30):
        with torch.no_grad():
            module.weight.add_(0.1)
        average.update()
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * module.weight.detach().numpy()
    live = module.weight.detach().clone()
    with average.applied():
        np.testing.assert_allclose(module.weight.detach(), expected, rtol=1e-5)
    assert torch.equal(module.weight, live)


def test_only_weights_of_two_axes_decay():
    module = nn.Module()
    shapes = {"w": (3, 4), "bias": (4,), "row": (1, 4), "scale": (4, 1, 1), "kernel": (4, 3, 1, 1)}
    for name, shape in shapes.items():
        module.register_parameter(name, nn.Parameter(torch.ones(shape)))
    made = optimizer.make(module, Settings(weight_decay=0.1))
    decays = {
        name: group["weight_decay"]
        for group in made.param_groups
        for weight in group["params"]
        for name, own in module.named_parameters()
        if own is weight
    }
    assert decays == {"w": 0.1, "kernel": 0.1, "bias": 0.0, "row": 0.0, "scale": 0.0}


def test_scales_move_by_a_share_of_what_they_are():
    module = nn.Linear(3, 2)
    module.scales = {"bias"}
    with torch.no_grad():
        module.bias.fill_(0.002)
    made = optimizer.make(module, Settings(learning_rate=1e-2))
    for group in made.param_groups:
        group["lr"] = 1e-2 * group[optimizer.PACE]
    before = module.weight.detach().clone(), module.bias.detach().clone()
    module(torch.ones(1, 3)).sum().backward()
    made.step()
    # AdamW's first step is the learning rate, whatever the gradient
    torch.testing.assert_close(before[0] - module.weight, torch.full((2, 3), 1e-2), rtol=1e-3, atol=0)
    torch.testing.assert_close(before[1] - module.bias, torch.full((2,), 2e-5), rtol=1e-2, atol=0)


def test_parts_and_processes_add_up_to_the_batch():
    """Value and gradient of a batch of 7, whole and as parts on two processes, joint terms included."""
    rows, wanted = (torch.from_numpy(RNG.normal(size=(7, 4))) for _ in range(2))
    weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
    term = Term("own", 0.5, lambda o, w, b: (o["y"] - w["y"]).square().mean(dim=1))
    joint = Term("pairs", 2.0, joint=lambda o, w: (o["y"], w["y"]), relation=losses.relations)
    objective = Objective((term, joint))

    def run(indices: list[int], world: int) -> tuple[float, torch.Tensor]:
        weight.grad = None
        value = 0.0
        pieces = [share(indices, rank, world) for rank in range(world)]
        for own in pieces:
            outputs, targets = {"y": rows[own] @ weight}, {"y": wanted[own]}

            def gather(mine: torch.Tensor, own: list[int] = own) -> tuple[torch.Tensor, ...]:
                source = rows @ weight.detach() if mine.requires_grad else wanted
                return tuple(mine if p is own else source[p] for p in pieces)

            part = Part(len(own), len(indices), len(indices), world)
            batch = Batch({}, None, tuple(own))
            total, terms = objective.contributions(outputs, targets, batch, part, gather)
            total.backward()
            value += float(total.detach())
            assert set(terms) == {"own", "pairs"}
        assert weight.grad is not None
        return value, weight.grad.clone()

    whole, split = run(list(range(7)), 1), run(list(range(7)), 2)
    assert split[0] == pytest.approx(whole[0], rel=1e-6)
    np.testing.assert_allclose(split[1], whole[1], rtol=1e-5, atol=1e-9)


def test_order_is_seeded_whole_and_groups_shapes():
    shapes = {10 * i: (i % 3,) for i in range(50)}
    order = Order(shapes, 8, seed=4)
    epochs = [[order.batch(e * len(order) + i) for i in range(len(order))] for e in range(3)]
    for batches in epochs:
        assert sorted(i for batch in batches for i in batch) == sorted(shapes)
        mixed = [batch for batch in batches if len({shapes[i] for i in batch}) > 1]
        assert len(mixed) <= 1
    assert epochs[0] != epochs[1]
    again = Order(shapes, 8, seed=4)
    assert [again.batch(i) for i in range(len(order))] == epochs[0]
    for batch in epochs[0]:
        parts = list(order.parts(batch, 2, None))
        assert sorted(i for part in parts for i in part) == sorted(batch)
        assert all(len({shapes[i] for i in part}) == 1 for part in parts)
        assert all([i for rank in range(3) for i in share(p, rank, 3)] == p for p in parts)
    assert all(len(p) <= 2 for p in order.parts(epochs[0][0], 1, 2))


def test_held_back_samples_are_not_trained_on():
    train, held = hold_back(range(100, 150), 0.2, seed=1)
    assert len(held) == 10
    assert sorted(train + held) == list(range(100, 150))
    assert hold_back(range(3), 0.0, 0) == ([0, 1, 2], [])
    assert len(hold_back(range(3), 0.01, 0)[1]) == 1


def test_pictures_are_flipped_and_moved_the_same_whatever_the_batch(tmp_path):
    writer = StoreWriter(tmp_path / "pictures", ["image"])
    pictures = RNG.uniform(1, 2, size=(6, 3, 16, 16)).astype(np.float32)
    for picture in pictures:
        writer.append({"image": picture})
    data = Calibration(writer.close(), range(6))
    samples = Samples(data, ("flip", "crop"), seed=2)
    together = samples.load([0, 1, 2, 3, 4, 5], 1).inputs["image"].numpy()
    alone = np.concatenate([samples.load([i], 1).inputs["image"].numpy() for i in range(6)])
    np.testing.assert_array_equal(together, alone)
    assert not np.array_equal(together, samples.load(range(6), 2).inputs["image"].numpy())
    np.testing.assert_array_equal(samples.load(range(6), None).inputs["image"].numpy(), pictures)
    for changed, picture in zip(together, pictures, strict=True):
        inside = changed[:, (changed != 0).any(axis=(0, 2))][:, :, (changed != 0).any(axis=(0, 1))]
        assert min(inside.shape[1:]) >= 14
        values = set(picture.reshape(-1).tolist())
        assert set(inside.reshape(-1).tolist()) <= values


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_pictures_are_zoomed_as_pillow_resizes_their_parts(tmp_path, dtype):
    from PIL import Image

    writer = StoreWriter(tmp_path / "pictures", ["image"])
    pictures = RNG.uniform(1, 200, size=(8, 3, 24, 40)).astype(dtype)
    for picture in pictures:
        writer.append({"image": picture})
    samples = Samples(Calibration(writer.close(), range(8)), ("zoom",), seed=3)
    zoomed = samples.load(range(8), 1).inputs["image"].numpy()
    assert zoomed.dtype == dtype
    np.testing.assert_array_equal(zoomed[2:3], samples.load([2], 1).inputs["image"].numpy())
    areas = []
    for index, found in enumerate(zoomed):
        height, width, top, left = _box(np.random.default_rng([3, 1, index]))
        areas.append(height * width)
        rows, columns = round(height * 24), round(width * 40)
        part = pictures[index, 0, int(top * 24) :, int(left * 40) :][:rows, :columns].astype(np.float32)
        assert part.shape == (rows, columns)
        wanted = np.asarray(Image.fromarray(part).resize((40, 24), Image.Resampling.BILINEAR))
        # Rounded to whole numbers, or to the 11 bits of a half.
        np.testing.assert_allclose(
            found[0], wanted, atol={"f": 1e-3, "e": 0.07, "B": 0.5}[np.dtype(dtype).char]
        )
    assert 0.3 < min(areas) < max(areas) <= 1


def test_the_shape_of_a_sample_is_read_from_its_header(tmp_path):
    data = separable(tmp_path / "data", 4)
    assert data.store.shape("x", 2) == data.store.value("x", 2).shape == (12,)
    assert data.store.shape("labels", 2) == ()
    batch = data.gather([3, 1])
    np.testing.assert_array_equal(batch.inputs["x"][1], data.store.value("x", 1))
    assert batch.indices == (3, 1)
