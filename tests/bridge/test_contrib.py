"""ONNX Runtime's own operators, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper

from hasten.bridge import to_torch
from hasten.bridge.dtypes import from_numpy
from hasten.graph import Graph

RNG = np.random.default_rng(5)


def real(*shape, scale=1.0):
    return RNG.normal(0, scale, shape).astype(np.float32)


def byte(*shape, dtype=np.uint8):
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


def seven_bits(*shape):
    """Weights that no CPU saturates with: x86 before VNNI adds pairs of products of bytes in 16 bits."""
    return byte(*shape, dtype=np.int8) // 2


def step(value=0.02):
    return np.array(value, np.float32)


def zero(value=120, dtype=np.uint8):
    return np.array(value, dtype)


@dataclass
class Case:
    """One node: its inputs in order (None: absent), attributes, element types of its outputs."""

    op_type: str
    inputs: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[Any, ...] = (np.float32,)
    domain: str = "com.microsoft"
    steps: int = 0  # how far quantized results may be apart


def quantized(op_type, *inputs, dtype=np.uint8, steps=1, **attributes):
    """A case whose result is a quantized tensor: products in other orders may round to the neighbour."""
    return Case(op_type, list(inputs), attributes, (dtype,), steps=steps)


def matmul_n_bits(bits, block, rows, columns, zero_points=None, **more):
    blocks = -(-columns // block)
    weight, scales = byte(rows, blocks, block * bits // 8), real(rows, blocks, scale=0.1)
    packed = -(-blocks * bits // 8)
    points = {"bytes": byte(rows, packed), "floats": real(rows, blocks) + 8, None: None}[zero_points]
    inputs = [real(3, columns), weight, scales, points]
    inputs += [None, more["bias"]] if "bias" in more else []
    return Case("MatMulNBits", inputs, {"K": columns, "N": rows, "bits": bits, "block_size": block})


WORDS = RNG.integers(0, 20, (2, 5)).astype(np.int32)
KINDS = RNG.integers(0, 2, (2, 5)).astype(np.int32)
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
EMBEDDINGS = [WORDS, KINDS, real(20, 8), real(6, 8), real(2, 8), real(8), real(8)]
SELF = [real(2, 5, 8), real(8, 24), real(24)]
QKV = [real(2, 4, 8), real(2, 5, 8), real(2, 5, 8)]
FLOAT3 = (np.float32,) * 3

FUSED = {
    "fused_matmul": Case("FusedMatMul", [real(2, 3, 4), real(2, 4, 5)], {"alpha": 0.5}),
    "fused_matmul_turned": Case("FusedMatMul", [real(2, 4, 3), real(2, 5, 4)], {"transA": 1, "transB": 1}),
    "fused_matmul_batches": Case(
        "FusedMatMul", [real(3, 2, 4), real(4, 2, 5)], {"transBatchA": 1, "transBatchB": 1}
    ),
    "fused_matmul_batches_turned": Case(
        "FusedMatMul", [real(4, 2, 3), real(2, 4, 5)], {"transBatchA": 1, "transA": 1}
    ),
    "gelu": Case("Gelu", [real(3, 4)]),
    "bias_gelu": Case("BiasGelu", [real(2, 3, 4), real(4)]),
    "fast_gelu": Case("FastGelu", [real(3, 4)]),
    "fast_gelu_bias": Case("FastGelu", [real(3, 4), real(4)]),
    "quick_gelu": Case("QuickGelu", [real(3, 4)], {"alpha": 1.5}),
    "skip_layer": Case("SkipLayerNormalization", [real(2, 3, 8), real(2, 3, 8), real(8), real(8), real(8)]),
    "skip_layer_sum": Case(
        "SkipLayerNormalization",
        [real(2, 3, 8), real(2, 3, 8), real(8)],
        {"epsilon": 1e-3},
        (np.float32, None, None, np.float32),
    ),
    "skip_simplified": Case(
        "SkipSimplifiedLayerNormalization", [real(2, 3, 8), real(2, 3, 8), real(8), real(8)]
    ),
    "skip_simplified_sum": Case(
        "SkipSimplifiedLayerNormalization",
        [real(2, 3, 8), real(2, 3, 8), real(8)],
        {},
        (np.float32, None, None, np.float32),
    ),
    "simplified": Case(
        "SimplifiedLayerNormalization",
        [real(2, 3, 8), real(8)],
        {"axis": -1},
        (np.float32, np.float32),
        domain="",
    ),
    "embed": Case("EmbedLayerNormalization", EMBEDDINGS, {}, (np.float32, np.int32)),
    "embed_mask": Case(
        "EmbedLayerNormalization", [*EMBEDDINGS, MASK], {"epsilon": 1e-5}, (np.float32, np.int32, np.float32)
    ),
    "embed_places": Case(
        "EmbedLayerNormalization", [*EMBEDDINGS, None, KINDS + 1], {}, (np.float32, np.int32)
    ),
    "fused_conv": Case(
        "FusedConv", [real(1, 2, 6, 6), real(4, 2, 3, 3), real(4)], {"activation": "Relu", "pads": [1] * 4}
    ),
    "fused_conv_sum": Case(
        "FusedConv",
        [real(1, 2, 6, 6), real(4, 2, 3, 3), real(4), real(1, 4, 4, 4)],
        {"activation": "LeakyRelu", "activation_params": [0.2]},
    ),
    "fused_conv_clip": Case(
        "FusedConv",
        [real(1, 2, 6, 6), real(4, 2, 3, 3)],
        {"activation": "Clip", "activation_params": [-0.5, 0.7], "strides": [2, 2]},
    ),
    "fused_conv_hard_sigmoid": Case(
        "FusedConv",
        [real(1, 2, 6, 6), real(4, 2, 3, 3)],
        {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]},
    ),
    "fused_gemm": Case(
        "FusedGemm", [real(3, 4), real(5, 4), real(5)], {"activation": "Tanh", "transB": 1, "alpha": 0.3}
    ),
    "fused_gemm_leaky": Case(
        "FusedGemm", [real(3, 4), real(4, 5), real(5)], {"activation": "LeakyRelu", "activation_alpha": 0.3}
    ),
    "nhwc_max_pool": Case(
        "NhwcMaxPool", [byte(1, 6, 6, 3)], {"kernel_shape": [2, 2], "strides": [2, 2]}, (np.uint8,)
    ),
}

ATTENTION = {
    "attention": Case("Attention", SELF, {"num_heads": 2}),
    "attention_lengths": Case("Attention", [*SELF, np.array([3, 5], np.int32)], {"num_heads": 2}),
    "attention_ends_and_starts": Case(
        "Attention", [*SELF, np.array([5, 4, 1, 0], np.int32)], {"num_heads": 2}
    ),
    "attention_mask": Case("Attention", [*SELF, MASK], {"num_heads": 4, "scale": 0.2}),
    "attention_causal": Case("Attention", SELF, {"num_heads": 2, "unidirectional": 1}),
    "attention_bias": Case("Attention", [*SELF, MASK, None, real(2, 2, 5, 5)], {"num_heads": 2}),
    "attention_past": Case(
        "Attention",
        [*SELF, None, real(2, 2, 2, 3, 4)],
        {"num_heads": 2, "unidirectional": 1},
        (np.float32, np.float32),
    ),
    "attention_sizes": Case(
        "Attention",
        [real(2, 5, 8), real(8, 28), real(28)],
        {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 12]},
    ),
    "multi_head": Case("MultiHeadAttention", QKV, {"num_heads": 2}),
    "multi_head_bias": Case("MultiHeadAttention", [*QKV, real(24)], {"num_heads": 2}),
    "multi_head_mask": Case("MultiHeadAttention", [*QKV, None, MASK], {"num_heads": 2}),
    "multi_head_added": Case(
        "MultiHeadAttention", [*QKV, None, None, real(2, 2, 4, 5)], {"num_heads": 2, "scale": 0.3}
    ),
    "multi_head_split": Case(
        "MultiHeadAttention", [real(2, 4, 8), real(2, 2, 5, 4), real(2, 2, 5, 4)], {"num_heads": 2}
    ),
    "multi_head_past": Case(
        "MultiHeadAttention",
        [*(real(2, 4, 8) for _ in range(3)), None, None, None, real(2, 2, 3, 4), real(2, 2, 3, 4)],
        {"num_heads": 2, "unidirectional": 1},
        FLOAT3,
    ),
}

A, B = (byte(3, 4), step(), zero()), (byte(4, 5), step(0.01), zero(100))
PER_COLUMN = RNG.uniform(0.01, 0.03, 5).astype(np.float32)
OUT = (step(0.05), zero(90))
IMAGE = byte(1, 3, 6, 6)

QUANTIZED = {
    "quantize": quantized("QuantizeLinear", real(3, 4), step(), zero(), steps=0),
    "quantize_axis": quantized(
        "QuantizeLinear", real(3, 5), PER_COLUMN, byte(5, dtype=np.int8), dtype=np.int8, steps=0, axis=1
    ),
    "dequantize": Case("DequantizeLinear", [byte(3, 4), step(), zero()]),
    "dequantize_int32": Case("DequantizeLinear", [byte(3, 4).astype(np.int32), step()]),
    "dynamic_quantize_matmul": Case(
        "DynamicQuantizeMatMul",
        [real(3, 4), seven_bits(4, 5), PER_COLUMN, byte(5, dtype=np.int8), real(5)],
    ),
    "matmul_integer_to_float": Case(
        "MatMulIntegerToFloat",
        [byte(3, 4), byte(4, 5), step(), PER_COLUMN, zero(), byte(5), real(5)],
    ),
    "add": quantized("QLinearAdd", *A, byte(4), step(0.01), zero(100), *OUT),
    "mul": quantized("QLinearMul", *A, byte(3, 4), step(0.01), zero(100), *OUT),
    "concat": quantized(
        "QLinearConcat", *OUT, byte(2, 3), step(), zero(), byte(2, 4), step(0.03), zero(5), axis=1
    ),
    "sigmoid": quantized("QLinearSigmoid", *A, step(1 / 256), zero(0)),
    "leaky_relu": quantized("QLinearLeakyRelu", *A, *OUT, alpha=0.2),
    "softmax": quantized("QLinearSoftmax", *A, step(1 / 256), zero(0), axis=-1, opset=13),
    "average_pool": quantized(
        "QLinearAveragePool", IMAGE, step(), zero(), *OUT, kernel_shape=[2, 2], strides=[2, 2]
    ),
    "average_pool_channels_last": quantized(
        "QLinearAveragePool", byte(1, 6, 6, 3), step(), zero(), *OUT, kernel_shape=[3, 3], channels_last=1
    ),
    "global_average_pool": quantized("QLinearGlobalAveragePool", IMAGE, step(), zero(), *OUT),
    "gemm": quantized("QGemm", *A, seven_bits(4, 5), PER_COLUMN, np.zeros(5, np.int8), None, *OUT, alpha=0.5),
    "gemm_to_float": Case(
        "QGemm",
        [byte(4, 3), step(), zero(), byte(5, 4), step(), zero(), RNG.integers(-99, 99, 5).astype(np.int32)],
        {"transA": 1, "transB": 1},
    ),
    "matmul_4_bits": matmul_n_bits(4, 16, 6, 40),
    "matmul_4_bits_points": matmul_n_bits(4, 32, 6, 96, "bytes", bias=real(6)),
    "matmul_4_bits_float_points": matmul_n_bits(4, 16, 6, 32, "floats"),
    "matmul_8_bits": matmul_n_bits(8, 16, 6, 40),
    "matmul_8_bits_points": matmul_n_bits(8, 32, 6, 64, "bytes"),
}

CASES = FUSED | ATTENTION | {f"quantized_{name}": case for name, case in QUANTIZED.items()}


def model_of(case):
    names = [f"i{i}" if value is not None else "" for i, value in enumerate(case.inputs)]
    results = [f"o{i}" if dtype is not None else "" for i, dtype in enumerate(case.outputs)]
    node = helper.make_node(case.op_type, names, results, domain=case.domain, **case.attributes)

    def info(name, dtype, shape=None):
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    given = [(n, v) for n, v in zip(names, case.inputs, strict=True) if v is not None]
    constant = [(n, v) for n, v in given[1:] if n in ("i1", "i2", "i3") and case.op_type == "MatMulNBits"]
    fed = [(n, v) for n, v in given if n not in dict(constant)]
    graph = helper.make_graph(
        [node],
        "case",
        [info(n, v.dtype, v.shape) for n, v in fed],
        [info(n, d) for n, d in zip(results, case.outputs, strict=True) if d is not None],
        [
            helper.make_tensor(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape, v.reshape(-1))
            for n, v in constant
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), dict(fed)


@pytest.mark.parametrize("name", CASES)
def test_equals_onnx_runtime(name):
    case = CASES[name]
    model, feeds = model_of(case)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = session.run(None, feeds)
    with torch.no_grad():
        found = to_torch(Graph(ir.from_proto(model)))(*(from_numpy(v) for v in feeds.values()))
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        array = one.numpy()
        assert array.dtype == other.dtype
        assert array.shape == other.shape
        if other.dtype.kind == "f":
            # Sums of up to 96 float32 terms in another order, tanh and erf to 1e-6.
            np.testing.assert_allclose(array, other, rtol=1e-4, atol=2e-5)
        else:
            assert np.abs(array.astype(np.int64) - other.astype(np.int64)).max() <= case.steps


def test_a_dynamically_quantized_product_learns():
    model, feeds = model_of(CASES["quantized_dynamic_quantize_matmul"])
    module = to_torch(Graph(ir.from_proto(model)))
    a, b, scale, zero_point, bias = (from_numpy(v) for v in feeds.values())
    a.requires_grad_()
    module(a, b, scale, zero_point, bias).sum().backward()
    weight = (b.float() - zero_point.float()) * scale
    torch.testing.assert_close(a.grad, weight.sum(1).expand_as(a))


def test_an_unknown_packing_is_refused():
    from hasten.core.errors import ModelError

    case = matmul_n_bits(4, 16, 6, 40)
    case.attributes["bits"] = 3
    model, _ = model_of(case)
    with pytest.raises(ModelError, match="MatMulNBits"):
        to_torch(Graph(ir.from_proto(model)))
