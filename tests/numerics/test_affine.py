"""Affine quantizers: against the formulas written plainly, and the laws they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.numerics.affine import Grid, asymmetric, slice_bounds, symmetric

GRIDS = [Grid(bits, signed) for bits in (2, 4, 7, 8) for signed in (True, False)]
numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
ranges = st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair)))

STEP = 0.5 + 256 * 2.0**-22
"""Half a step, and what float32 rounds off quotients and products of up to 256 steps."""


def plain(x, scale, zero_point, low, high):
    """The formula of ONNX's QuantizeLinear and DequantizeLinear, number by number."""
    q = [min(max(round(float(np.float32(v) / scale)) + int(zero_point), low), high) for v in x]
    return q, [np.float32(n - int(zero_point)) * scale for n in q]


@pytest.mark.parametrize(
    ("bits", "signed", "low", "high"), [(8, True, -128, 127), (8, False, 0, 255), (4, True, -8, 7)]
)
def test_a_grid_has_all_integers_of_its_bits(bits, signed, low, high):
    grid = Grid(bits, signed)
    assert (grid.low, grid.high) == (low, high)
    assert grid.dtype == (np.int8 if signed else np.uint8)


def test_wide_grids_are_stored_in_16_bits():
    assert Grid(12, signed=False).dtype == np.uint16
    with pytest.raises(ValueError, match="2 to 16 bits"):
        Grid(1)


@given(ranges, st.sampled_from(GRIDS), st.lists(numbers, min_size=1, max_size=20))
def test_asymmetric_is_the_formula(bounds, grid, x):
    quantizer = asymmetric(*bounds, grid)
    q, real = plain(x, quantizer.scale, quantizer.zero_point, grid.low, grid.high)
    assert quantizer.quantize(x).tolist() == q
    np.testing.assert_array_equal(quantizer.round_trip(x), np.asarray(real, np.float32))


@given(ranges, st.sampled_from(GRIDS), st.data())
def test_inside_the_range_the_error_is_half_a_scale(bounds, grid, data):
    quantizer = asymmetric(*bounds, grid)
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    x = np.float32(data.draw(st.floats(low, high, width=32)))
    assert abs(float(quantizer.round_trip(x)) - float(x)) <= STEP * float(quantizer.scale)


@given(ranges, st.sampled_from(GRIDS))
def test_zero_is_exact(bounds, grid):
    quantizer = asymmetric(*bounds, grid)
    assert grid.low <= int(quantizer.zero_point) <= grid.high
    assert quantizer.quantize(0.0) == quantizer.zero_point
    assert quantizer.round_trip(0.0) == 0.0


@given(numbers.map(abs), st.sampled_from(GRIDS))
def test_values_that_are_never_negative_use_the_whole_grid(high, grid):
    assert asymmetric(0.0, high, grid).zero_point == grid.low


@given(ranges, st.sampled_from(GRIDS), st.lists(numbers, min_size=2, max_size=20).map(sorted))
def test_rounding_keeps_the_order_and_is_done_after_one_time(bounds, grid, x):
    quantizer = asymmetric(*bounds, grid)
    once = quantizer.round_trip(x)
    assert (np.diff(once) >= 0).all()
    np.testing.assert_array_equal(quantizer.round_trip(once), once)
    assert (once >= quantizer.low).all()
    assert (once <= quantizer.high).all()


@given(st.lists(numbers, min_size=1, max_size=30))
def test_symmetric_mirrors(x):
    quantizer = symmetric(np.abs(x).max(), Grid(8))
    assert quantizer.zero_point == 0
    mirrored = quantizer.quantize(np.negative(x))
    np.testing.assert_array_equal(mirrored, -quantizer.quantize(x).astype(int))
    assert np.abs(quantizer.round_trip(x) - np.float32(x)).max() <= STEP * quantizer.scale


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_per_axis_is_per_tensor_slice_by_slice(axis):
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32) * np.arange(1, 5)[:, None]
    quantizer = symmetric(slice_bounds(x, axis), Grid(8), axis)
    for i, part in enumerate(np.moveaxis(x, axis, 0)):
        alone = symmetric(np.abs(part).max(), Grid(8))
        np.testing.assert_array_equal(np.take(quantizer.quantize(x), i, axis), alone.quantize(part))
        np.testing.assert_array_equal(np.take(quantizer.round_trip(x), i, axis), alone.round_trip(part))
        assert np.abs(alone.quantize(part)).max() == 127


def test_a_slice_of_zeros_stays_zero():
    x = np.zeros((2, 3), np.float32)
    x[1] = [1, 2, 3]
    quantizer = symmetric(slice_bounds(x, 0), Grid(8), 0)
    assert (quantizer.scale > 0).all()
    assert (quantizer.round_trip(x)[0] == 0).all()


def test_seven_bits_use_half_of_eight():
    x = np.linspace(-1, 1, 101, dtype=np.float32)
    assert np.abs(symmetric(1.0, Grid(7)).quantize(x)).max() == 63


def test_symmetric_refuses_an_unsigned_grid():
    with pytest.raises(ValueError, match="signed"):
        symmetric(1.0, Grid(8, signed=False))


def test_the_runtime_rounds_the_same():
    """What the graph will compute is what the numpy routines say, ties and saturation included."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    quantizer = asymmetric(-1.0, 2.0, Grid(8, signed=False))
    names = ["x", "scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", names, ["q"]),
        helper.make_node("DequantizeLinear", ["q", *names[1:]], ["y"]),
    ]
    kinds = {"x": TensorProto.FLOAT, "scale": TensorProto.FLOAT, "zero": TensorProto.UINT8}
    inputs = [helper.make_tensor_value_info(n, k, None if n == "x" else []) for n, k in kinds.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph(nodes, "pair", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ties = (np.arange(-300, 600) * 0.5).astype(np.float32) * quantizer.scale
    feeds = {"x": ties, "scale": quantizer.scale, "zero": quantizer.zero_point}
    np.testing.assert_array_equal(session.run(None, feeds)[0], quantizer.round_trip(ties))
