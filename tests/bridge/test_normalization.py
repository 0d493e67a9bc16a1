"""Batch norms learn their statistics as PyTorch's do; other norms agree with torch's layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from .single import assert_close, single


def batch_norm(x, momentum=0.9):
    layer = nn.BatchNorm2d(3, momentum=1 - momentum)
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.bias)
    inputs = (x, layer.weight, layer.bias, layer.running_mean, layer.running_var)
    return layer, single("BatchNormalization", inputs, {"momentum": momentum}, weights=(1, 2, 3, 4))


def test_training_moves_the_statistics_as_pytorch_does():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5) * 2 + 1
    layer, module = batch_norm(x, momentum=0.8)
    for _ in range(3):
        assert_close(module.train()(x), layer.train()(x))
    assert_close(module.get_buffer("x3"), layer.running_mean)
    assert_close(module.get_buffer("x4"), layer.running_var)
    assert_close(module.eval()(x), layer.eval()(x))
    kept = module.to_graph().ir_model.graph.initializers["x3"].const_value.numpy()
    assert_close(torch.from_numpy(kept), layer.running_mean)


def test_evaluation_leaves_the_statistics_alone():
    x = torch.randn(4, 3, 5, 5)
    _, module = batch_norm(x)
    module.eval()(x)
    assert not module.get_buffer("x3").any()


def test_statistics_from_another_node_take_gradients():
    inputs = [torch.rand(s) + 0.5 for s in ((2, 3, 4), (3,), (3,), (3,), (3,))]
    inputs = [t.requires_grad_() for t in inputs]
    single("BatchNormalization", inputs)(*inputs).square().sum().backward()
    assert all(t.grad is not None for t in inputs)


@pytest.mark.parametrize("axis", [1, -1])
def test_layer_statistics_are_those_of_the_axes(axis):
    x, scale = torch.randn(2, 3, 4), torch.randn(4)
    y, mean, inverse = single("LayerNormalization", (x, scale), {"axis": axis}, outputs=3)(x, scale)
    axes = tuple(range(axis % 3, 3))
    assert_close(mean, x.mean(axes, keepdim=True))
    assert_close(inverse, (x.var(axes, correction=0, keepdim=True) + 1e-5).rsqrt())
    assert_close(y, (x - mean) * inverse * scale)
    assert_close(single("LayerNormalization", (x, scale), {"axis": axis})(x, scale), y)


def test_local_response_of_an_even_size_looks_further_ahead():
    """Size 2 sums a channel and the next one (ONNX, LRN)."""
    x = torch.randn(1, 3, 2, 2)
    found = single("LRN", (x,), {"size": 2, "alpha": 0.5, "beta": 0.75})(x)
    sums = x.square()
    sums[:, :-1] += x[:, 1:].square()
    assert_close(found, x / (1 + 0.25 * sums) ** 0.75)


def test_a_channel_of_equal_numbers_passes_finite_gradients():
    x = torch.randn(2, 3, 4, 5)
    x[:, 1] = 0.0
    module, given = single("MeanVarianceNormalization", [x]), x.clone().requires_grad_()
    y = module(given)
    (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
    assert_close(y[:, 1], torch.zeros(2, 4, 5))
    assert torch.isfinite(given.grad).all()
