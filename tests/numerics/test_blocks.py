"""Groups along an axis, and one quantizer for each slice: against the same done block by block."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.numerics.affine import Grid, asymmetric, symmetric
from hasten.numerics.blocks import extremes_of, largest_of, spread


def data(*shape):
    return np.random.default_rng(5).normal(size=shape).astype(np.float32) + np.float32(0.3)


@pytest.mark.parametrize(("axis", "group"), [(0, 4), (1, 4), (1, 5), (0, 100)])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_groups_are_quantizers_of_their_own(axis, group, bits):
    x = data(12, 10)
    low, high = extremes_of(x, axis, group)
    signed = symmetric(largest_of(x, axis, group), Grid(bits), axis, group)
    whole = asymmetric(low, high, Grid(bits, signed=False), axis, group)
    assert whole.scale.shape[axis] == -(-x.shape[axis] // group)
    for start in range(0, x.shape[axis], group):
        span = np.arange(start, min(start + group, x.shape[axis]))
        for other in range(x.shape[1 - axis]):
            block = x.take(span, axis).take(other, 1 - axis)
            alone = symmetric(np.abs(block).max(), Grid(bits))
            found = signed.round_trip(x).take(span, axis).take(other, 1 - axis)
            np.testing.assert_array_equal(found, alone.round_trip(block))
            alone = asymmetric(block.min(), block.max(), Grid(bits, signed=False))
            found = whole.round_trip(x).take(span, axis).take(other, 1 - axis)
            np.testing.assert_array_equal(found, alone.round_trip(block))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_asymmetric_per_channel_is_per_tensor_slice_by_slice(axis):
    x = data(3, 4, 5)
    quantizer = asymmetric(*extremes_of(x, axis), Grid(4, signed=False), axis)
    for i, part in enumerate(np.moveaxis(x, axis, 0)):
        alone = asymmetric(part.min(), part.max(), Grid(4, signed=False))
        np.testing.assert_array_equal(np.take(quantizer.round_trip(x), i, axis), alone.round_trip(part))


def test_the_runtime_decodes_blocks_the_same():
    import ml_dtypes
    import onnx_ir as ir
    import onnxruntime as ort
    from onnx import TensorProto, helper

    x = data(32, 6)
    low, high = extremes_of(x, 0, 8)
    quantizer = asymmetric(low, high, Grid(4, signed=False), 0, 8)
    parts = {
        "q": quantizer.quantize(x).astype(ml_dtypes.uint4),
        "s": quantizer.scale,
        "z": quantizer.zero_point.astype(ml_dtypes.uint4),
    }
    node = helper.make_node("DequantizeLinear", list(parts), ["y"], axis=0, block_size=8)
    stored = [ir.serde.serialize_tensor(ir.tensor(array, name=name)) for name, array in parts.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)
    model = helper.make_model(
        helper.make_graph([node], "blocks", [], [y], stored),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], quantizer.round_trip(x))


def test_of_nothing_the_range_is_zero():
    assert largest_of(np.zeros((0, 3))) == 0
    assert largest_of(np.zeros((0, 3)), 1).tolist() == [0, 0, 0]
    assert spread(np.float32(2), (4,)) == 2
