"""The differentiable pair of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hasten.bridge import to_torch
from hasten.bridge.fake_quant import fake_quantize
from hasten.bridge.quantizer import Granularity, Grid
from hasten.graph import Graph

SHAPE = (4, 6, 5)
NUMPY = {
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT16: np.int16,
    TensorProto.UINT16: np.uint16,
}


def pair_model(scale, zero_point, dtype, readers=1, **attributes):
    """X through one QuantizeLinear and ``readers`` DequantizeLinear nodes, each an output."""
    weights = [numpy_helper.from_array(scale, "scale")]
    names = ["scale"]
    if zero_point is not None:
        array = np.array(zero_point, NUMPY[dtype]) if dtype in NUMPY else zero_point
        tensor = helper.make_tensor("zero", dtype, scale.shape, np.asarray(array).reshape(-1).tolist())
        weights.append(tensor)
        names.append("zero")
    nodes = [helper.make_node("QuantizeLinear", ["x", *names], ["q"], **attributes)]
    outputs = [f"y{i}" for i in range(readers)]
    nodes += [helper.make_node("DequantizeLinear", ["q", *names], [y], **attributes) for y in outputs]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, SHAPE) for y in outputs],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def in_runtime(model, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def module_of(model):
    return to_torch(Graph(ir.from_proto(model)))


RNG = np.random.default_rng(3)
PER_AXIS = RNG.uniform(0.01, 0.04, SHAPE[1]).astype(np.float32)
PER_BLOCK = RNG.uniform(0.01, 0.04, (4, 3, 5)).astype(np.float32)
ONE = np.array(0.02, np.float32)
CASES = {
    "tensor_int8": (ONE, 0, TensorProto.INT8, {}),
    "tensor_uint8": (ONE, 117, TensorProto.UINT8, {}),
    "tensor_uint16": (ONE / 200, 30000, TensorProto.UINT16, {}),
    "tensor_no_zero_point": (ONE, None, TensorProto.UINT8, {}),
    "axis_int8": (PER_AXIS, np.arange(-3, 3), TensorProto.INT8, {"axis": 1}),
    "axis_int16": (PER_AXIS / 200, np.arange(6), TensorProto.INT16, {"axis": 1}),
    "block_int8": (PER_BLOCK, np.arange(60).reshape(4, 3, 5), TensorProto.INT8, {"axis": 1, "block_size": 2}),
    "block_int4": (
        PER_BLOCK * 16,
        np.zeros((4, 3, 5), np.int8),
        TensorProto.INT4,
        {"axis": 1, "block_size": 2},
    ),
    "tensor_float8": (ONE / 3, 0, TensorProto.FLOAT8E4M3FN, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnx_runtime(name):
    scale, zero_point, dtype, attributes = CASES[name]
    model = pair_model(scale, zero_point, dtype, **attributes)
    x = RNG.normal(0, 2, SHAPE).astype(np.float32)
    found = module_of(model)(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), in_runtime(model, x))


@pytest.mark.parametrize("name", CASES)
def test_gradient_passes_inside_the_range_only(name):
    scale, zero_point, dtype, attributes = CASES[name]
    module = module_of(pair_model(scale, zero_point, dtype, **attributes))
    x = torch.from_numpy(RNG.normal(0, 2, SHAPE).astype(np.float32)).requires_grad_()
    weight = torch.from_numpy(RNG.normal(0, 1, SHAPE).astype(np.float32))
    (module(x) * weight).sum().backward()
    v, low, high, _ = written_terms(x, scale, zero_point, dtype, attributes)
    inside = (v >= low) & (v <= high)
    assert 0 < inside.sum() < inside.numel()
    torch.testing.assert_close(x.grad, weight * inside)


def written_terms(x, scale, zero_point, dtype, attributes):
    """X / scale, the lowest and highest level less the zero point, and the scale spread over x."""
    grid = Grid.of(ir.DataType(dtype))
    spread = np.asarray(scale)
    zero = np.zeros_like(spread) if zero_point is None else np.asarray(zero_point, np.float32)
    if spread.ndim == 1:
        spread, zero = spread.reshape(1, -1, 1), zero.reshape(1, -1, 1)
    if "block_size" in attributes:
        spread, zero = (a.repeat(attributes["block_size"], attributes["axis"]) for a in (spread, zero))
    spread, zero = torch.from_numpy(np.array(spread)), torch.from_numpy(np.array(zero))
    return (x / spread).detach(), grid.low - zero, grid.high - zero, spread


@pytest.mark.parametrize("name", [n for n in CASES if n != "tensor_float8"])
def test_gradient_of_the_scale_is_the_papers(name):
    scale, zero_point, dtype, attributes = CASES[name]
    grid = Grid.of(ir.DataType(dtype))
    x = torch.from_numpy(RNG.normal(0, 2, SHAPE).astype(np.float32))
    weight = torch.from_numpy(RNG.normal(0, 1, SHAPE).astype(np.float32))
    learned = torch.from_numpy(np.array(scale)).requires_grad_()
    zero = None if zero_point is None else torch.from_numpy(np.array(zero_point, np.int32))
    y = fake_quantize(x, learned, zero, grid, Granularity(**attributes))
    (y * weight).sum().backward()

    # Esser et al. 2020, eq. 3, with the gradient scale of their section 2.2.
    v, low, high, _ = written_terms(x, scale, zero_point, dtype, attributes)
    slope = torch.where(v < low, low, torch.where(v > high, high, v.round() - v)) * weight
    if learned.dim() == 0:
        slope = slope.sum()
    elif "block_size" in attributes:
        slope = slope.reshape(4, 3, 2, 5).sum(2)
    else:
        slope = slope.sum((0, 2))
    per_scale = x.numel() / learned.numel()
    # Sums of up to 120 float32 terms of size up to 3e4 in another order.
    torch.testing.assert_close(learned.grad, slope / math.sqrt(per_scale * grid.high), rtol=1e-4, atol=1e-4)


def test_a_scale_held_by_the_module_learns():
    module = module_of(pair_model(ONE, 0, TensorProto.INT8))
    scale = module._buffers["scale"].requires_grad_()
    module(torch.full(SHAPE, 100.0)).sum().backward()
    # Everything is clipped at 127: the slope is 127 for each of the 120 elements.
    assert scale.grad.item() == pytest.approx(120 * 127 / math.sqrt(120 * 127), rel=1e-5)


def test_several_readers_share_one_step():
    module = module_of(pair_model(ONE, 0, TensorProto.INT8, readers=2))
    x = torch.randn(SHAPE, requires_grad=True)
    first, second = module(x)
    torch.testing.assert_close(first, second)
    (first + second).sum().backward()
    assert x.grad.max() == 2


def test_a_quantized_output_stays_quantized():
    model = pair_model(ONE, 0, TensorProto.INT8)
    model.graph.output.append(helper.make_tensor_value_info("q", TensorProto.INT8, SHAPE))
    x = torch.randn(SHAPE)
    y, q = module_of(model)(x)
    assert q.dtype == torch.int8
    torch.testing.assert_close(y, q.float() * 0.02)


def test_another_scale_is_no_pair():
    model = pair_model(ONE, 0, TensorProto.INT8)
    model.graph.initializer.append(numpy_helper.from_array(2 * ONE, "other"))
    model.graph.node[1].input[1] = "other"
    x = RNG.normal(0, 1, SHAPE).astype(np.float32)
    found = module_of(model)(torch.from_numpy(x))
    assert not found.requires_grad
    np.testing.assert_array_equal(found.numpy(), in_runtime(model, x))


# torch's tracer instantiates autograd functions, which torch warns against.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles():
    torch._dynamo.reset()
    module = module_of(pair_model(PER_AXIS, np.arange(-3, 3), TensorProto.INT8, axis=1))
    x = torch.randn(SHAPE, requires_grad=True)
    expected = module(x)
    expected.square().sum().backward()
    gradient, x.grad = x.grad, None
    found = torch.compile(module, backend="aot_eager", fullgraph=True)(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(x.grad, gradient, rtol=0, atol=0)


def test_half_precision_keeps_its_type():
    grid = Grid.of(ir.DataType.INT8)
    x = torch.randn(100, dtype=torch.float16, requires_grad=True)
    y = fake_quantize(x, torch.tensor(0.02, dtype=torch.float16), None, grid)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.float16
    # float16 keeps 11 bits: x / scale, up to 128, is off by at most 2**-5, which moves a level by one.
    assert (y - x).abs()[x.grad > 0].max() <= 0.02 * 0.5 + 0.02 * 2**-4


def test_model_is_sound():
    onnx.checker.check_model(pair_model(ONE, 0, TensorProto.INT8))
