"""Convolutions and pools against torch's own layers, where ONNX's padding differs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from .single import assert_close, single


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_symmetric_convolution_is_torchs(rank):
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 4, *[7] * rank), torch.randn(6, 2, *[3] * rank), torch.randn(6)
    attributes = {"pads": [1] * 2 * rank, "strides": [2] * rank, "dilations": [2] * rank, "group": 2}
    conv = getattr(functional, f"conv{rank}d")
    assert_close(single("Conv", (x, w, b), attributes)(x, w, b), conv(x, w, b, 2, 1, 2, 2))


def test_asymmetric_convolution_pads_first():
    x, w = torch.randn(1, 3, 6, 6), torch.randn(2, 3, 3, 3)
    found = single("Conv", (x, w), {"pads": [0, 1, 2, 0]})(x, w)
    assert_close(found, functional.conv2d(functional.pad(x, (1, 0, 0, 2)), w))


@pytest.mark.parametrize(("auto_pad", "sides"), [("SAME_UPPER", (0, 1)), ("SAME_LOWER", (1, 0))])
def test_same_padding_follows_the_size(auto_pad, sides):
    x, w = torch.randn(1, 3, 6), torch.randn(2, 3, 3)
    module = single("Conv", (x, w), {"auto_pad": auto_pad, "strides": [2]})
    assert_close(module(x, w), functional.conv1d(functional.pad(x, sides), w, stride=2))
    odd = torch.randn(1, 3, 7)
    assert_close(module(odd, w), functional.conv1d(odd, w, stride=2, padding=1))


def test_transposed_convolution_is_torchs():
    x, w, b = torch.randn(2, 4, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(6)
    attributes = {"pads": [1, 1, 1, 1], "strides": [2, 2], "output_padding": [1, 1], "group": 2}
    wanted = functional.conv_transpose2d(x, w, b, 2, 1, 1, 2)
    assert_close(single("ConvTranspose", (x, w, b), attributes)(x, w, b), wanted)


def test_transposed_convolution_to_a_larger_shape_adds_the_bias_there():
    x, w, b = torch.randn(1, 1, 3), torch.randn(1, 2, 2), torch.randn(2)
    y = single("ConvTranspose", (x, w, b), {"output_shape": [6]})(x, w, b)
    assert_close(y[..., :4], functional.conv_transpose1d(x, w, b))
    assert_close(y[..., 4:], b[None, :, None].expand(1, 2, 2))


def test_deformation_by_nothing_is_a_convolution():
    x, w, b = torch.randn(2, 4, 6, 5), torch.randn(6, 2, 3, 3), torch.randn(6)
    offset = torch.zeros(2, 2 * 18, 3, 3)
    attributes = {"pads": [1, 1, 1, 1], "strides": [2, 2], "group": 2, "offset_group": 2}
    found = single("DeformConv", (x, w, offset, b), attributes)(x, w, offset, b)
    assert_close(found, functional.conv2d(x, w, b, 2, 1, 1, 2))


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("counted", [0, 1])
def test_symmetric_average_is_torchs(ceil, counted):
    x = torch.randn(1, 2, 7, 8)
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    found = single("AveragePool", (x,), {**attributes, "ceil_mode": ceil, "count_include_pad": counted})(x)
    assert_close(found, functional.avg_pool2d(x, 3, 2, 1, bool(ceil), bool(counted)))


@pytest.mark.parametrize("counted", [0, 1])
def test_asymmetric_average_is_that_of_the_padded_picture(counted):
    x = torch.randn(1, 2, 7, 8)
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 2, 2], "count_include_pad": counted}
    found = single("AveragePool", (x,), attributes)(x)
    sides = (1, 2, 1, 2)
    sums = functional.avg_pool2d(functional.pad(x, sides), 3, 1)
    real = functional.pad(torch.ones_like(x), sides, value=float(counted))
    assert_close(found, sums / functional.avg_pool2d(real, 3, 1))


@pytest.mark.parametrize("storage_order", [0, 1])
def test_unpooling_undoes_pooling(storage_order):
    x = torch.randn(2, 3, 6, 4)
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pooled, places = single("MaxPool", (x,), {**attributes, "storage_order": storage_order}, outputs=2)(x)
    wanted, local = functional.max_pool2d(x, 2, 2, return_indices=True)
    assert_close(pooled, wanted)
    if storage_order == 0:
        back = single("MaxUnpool", (pooled, places), attributes)(pooled, places)
        assert_close(back, functional.max_unpool2d(wanted, local, 2, 2))
    else:
        rows, columns = local // 4, local % 4
        assert torch.equal(places[0, 0], (columns * 6 + rows)[0, 0])


def test_windows_of_zeros_pass_no_gradient():
    x = torch.zeros(1, 1, 4, requires_grad=True)
    single("LpPool", (x,), {"kernel_shape": [2]})(x).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
