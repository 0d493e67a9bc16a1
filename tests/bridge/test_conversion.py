"""Conversions between element types against ml_dtypes, for every float16."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from hasten.bridge.conversion import conversion
from hasten.bridge.dtypes import from_numpy, to_numpy

EVERY_FLOAT16 = np.arange(2**16, dtype=np.uint16).view(np.float16)
FLOAT8 = {
    ir.DataType.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    ir.DataType.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    ir.DataType.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    ir.DataType.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
}


def same(found, expected):
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("wide", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8(dtype, wide):
    with np.errstate(invalid="ignore"):
        x = EVERY_FLOAT16.astype(wide)
        overflowing = to_numpy(conversion(dtype, saturate=False)(from_numpy(x)))
        same(overflowing, x.astype(FLOAT8[dtype]))
        saturating = to_numpy(conversion(dtype)(from_numpy(x)))
        same(saturating, numpy_helper.saturate_cast(x, FLOAT8[dtype]))


def test_float4():
    x = EVERY_FLOAT16[~np.isnan(EVERY_FLOAT16)]
    same(conversion(ir.DataType.FLOAT4E2M1)(from_numpy(x)).numpy(), x.astype(ml_dtypes.float4_e2m1fn))


def test_float4_passes_its_gradient():
    x = torch.tensor([-9.0, -1.2, 0.3, 5.0, 6.5], requires_grad=True)
    conversion(ir.DataType.FLOAT4E2M1)(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("round_mode", ["up", "down", "nearest"])
def test_powers_of_two(round_mode, saturate):
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 2**31 - 2**23, 4000, np.int32).view(np.float32)
    edges = np.array([0, 1, 1.5, 2, 3, 2.0**127, 3e38, np.inf, np.nan, 1e-45, 2.0**-127], np.float32)
    x = np.concatenate((drawn, edges))
    found = conversion(ir.DataType.FLOAT8E8M0, saturate, round_mode)(from_numpy(x)).view(torch.uint8).numpy()
    expected = numpy_helper.to_float8e8m0(x, saturate, round_mode).view(np.uint8)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"),
    [
        (ir.DataType.INT4, ml_dtypes.int4),
        (ir.DataType.UINT4, ml_dtypes.uint4),
        (ir.DataType.INT2, ml_dtypes.int2),
        (ir.DataType.UINT2, ml_dtypes.uint2),
    ],
)
def test_narrow_integers_lose_their_high_bits(dtype, numpy_dtype):
    x = np.arange(-128, 128, dtype=np.int8)
    found = conversion(dtype)(from_numpy(x)).numpy()
    np.testing.assert_array_equal(found, x.astype(numpy_dtype).astype(found.dtype))
