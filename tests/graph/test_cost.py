"""Costs are counted by hand here."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from hasten.graph import Graph
from hasten.graph.cost import layer_costs, nonzero_parameters, total_macs


def graph(text, domains="", **weights):
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1{domains}]> tested {text}'
    )
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return Graph(ir.serde.deserialize_model(model))


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


SCALES = {"s": np.float32(0.1), "z": np.uint8(0), "sw": np.float32(0.1), "zw": np.int8(0)}

CASES = {
    "conv": (
        "(float[n,6,10,8] x) => (float[n,12,5,4] y) "
        "{ y = Conv<group=2, strides=[2,2], pads=[1,1,1,1]>(x, w, b) }",
        {"w": zeros(12, 3, 3, 3), "b": zeros(12)},
        12 * 5 * 4 * (3 * 9),
        12 * 27 + 12,
    ),
    "transposed conv": (
        "(float[n,6,5,4] x) => (float[n,8,10,8] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
        {"w": zeros(6, 8, 2, 2)},
        6 * 5 * 4 * (8 * 4),
        6 * 8 * 4,
    ),
    "gemm": ("(float[n,6] x) => (float[n,4] y) { y = Gemm<transB=1>(x, w) }", {"w": zeros(4, 6)}, 24, 24),
    "matmul": ("(float[n,7,6] x) => (float[n,7,4] y) { y = MatMul(x, w) }", {"w": zeros(6, 4)}, 7 * 24, 24),
    "batched matmul": (
        "(float[2,3,5,6] x, float[2,3,6,7] w) => (float[2,3,5,7] y) { y = MatMul(x, w) }",
        {},
        2 * 3 * 5 * 7 * 6,
        0,
    ),
    "fused matmul": (
        "(float[3,6,5] x, float[3,7,6] w) => (float[3,5,7] y) "
        "{ y = com.microsoft.FusedMatMul<transA=1, transB=1>(x, w) }",
        {},
        3 * 5 * 7 * 6,
        0,
    ),
    "lstm": (
        "(float[9,1,5] x) => (float[9,2,1,8] y) "
        '{ y = LSTM<hidden_size=8, direction="bidirectional">(x, w, r) }',
        {"w": zeros(2, 32, 5), "r": zeros(2, 32, 8)},
        9 * 2 * 32 * (5 + 8),
        2 * 32 * 13,
    ),
    "gru": (
        "(float[9,1,5] x) => (float[9,1,1,8] y) { y = GRU<hidden_size=8>(x, w, r) }",
        {"w": zeros(1, 24, 5), "r": zeros(1, 24, 8)},
        9 * 24 * 13,
        24 * 13,
    ),
    "einsum": (
        '(float[2,3,5] x, float[3,5,7] w) => (float[2,7] y) { y = Einsum<equation="bij,ijk->bk">(x, w) }',
        {},
        2 * 3 * 5 * 7,
        0,
    ),
    "einsum with dots": (
        '(float[4,2,3] x, float[3,7] w) => (float[4,2,7] y) { y = Einsum<equation="...i,ij->...j">(x, w) }',
        {},
        4 * 2 * 3 * 7,
        0,
    ),
    "einsum that only moves": (
        '(float[2,3] x) => (float[3,2] y) { y = Einsum<equation="ij->ji">(x) }',
        {},
        0,
        0,
    ),
    "attention": (
        "(float[1,2,5,8] q, float[1,2,9,8] k, float[1,2,9,8] v) => (float[1,2,5,8] y) "
        "{ y = Attention(q, k, v) }",
        {},
        2 * (2 * 5 * 9 * 8),
        0,
    ),
    "integer matmul": (
        "(uint8[n,6] x) => (int32[n,4] y) { y = MatMulInteger(x, w) }",
        {"w": zeros(6, 4, dtype=np.int8)},
        24,
        24,
    ),
    "integer conv": (
        "(uint8[n,6,4,4] x) => (int32[n,8,4,4] y) { y = ConvInteger(x, w) }",
        {"w": zeros(8, 6, 1, 1, dtype=np.uint8)},
        16 * 48,
        48,
    ),
    "linear quantized conv": (
        "(uint8[n,6,4,4] x) => (uint8[n,8,4,4] y) { y = QLinearConv(x, s, z, w, sw, zw, s, z, b) }",
        {"w": zeros(8, 6, 1, 1, dtype=np.int8), "b": zeros(8, dtype=np.int32), **SCALES},
        16 * 48,
        48 + 8,
    ),
    "linear quantized matmul": (
        "(uint8[n,6] x) => (uint8[n,4] y) { y = QLinearMatMul(x, s, z, w, sw, zw, s, z) }",
        {"w": zeros(6, 4, dtype=np.int8), **SCALES},
        24,
        24,
    ),
    "dynamically quantized matmul": (
        "(float[n,6] x) => (float[n,4] y) { y = com.microsoft.DynamicQuantizeMatMul(x, w, sw, zw) }",
        {"w": zeros(6, 4, dtype=np.int8), "sw": np.float32(0.1), "zw": np.int8(0)},
        24,
        24,
    ),
    "an activation": ("(float[n,6] x) => (float[n,6] y) { y = Relu(x) }", {}, 0, 0),
}
INTEGER = {name for name in CASES if "integer" in name or "quantized" in name}


@pytest.mark.parametrize("case", CASES)
def test_counted_by_hand(case):
    text, weights, macs, parameters = CASES[case]
    made = graph(text, **weights)
    layers = layer_costs(made)
    assert sum(layer.macs for layer in layers) == macs == total_macs(made)
    assert sum(layer.parameters for layer in layers) == parameters
    assert sum(layer.weight_bytes for layer in layers) == sum(
        array.nbytes for name, array in weights.items() if name in {"w", "r", "b"}
    )
    for layer in layers:
        assert layer.dtype == ("int8" if case in INTEGER else "float32")


def test_attention_of_com_microsoft():
    made = graph(
        "(float[2,5,6] x) => (float[2,5,8] y) { y = com.microsoft.Attention<num_heads=2>(x, w, b) }",
        w=zeros(6, 24),
        b=zeros(24),
    )
    assert total_macs(made, {"x": zeros(2, 5, 6)}) == 10 * 6 * 24 + 2 * (2 * 5 * 5 * 8)


QDQ = """(float[n,6,4,4] x) => (float[n,8,4,4] y) {
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
    e = DequantizeLinear<axis=0>(w, row, zeros) f = DequantizeLinear(b, row) c = Conv(d, e, f)
    g = QuantizeLinear(c, s, z) h = DequantizeLinear(g, s, z) y = Relu(h) }"""


def test_quantize_and_dequantize_around_a_layer_make_it_int8():
    made = graph(
        QDQ.replace("f = DequantizeLinear(b, row)", "f = DequantizeLinear<axis=0>(b, row)"),
        s=np.float32(0.1),
        z=np.uint8(128),
        row=np.full(8, 0.1, np.float32),
        zeros=zeros(8, dtype=np.int8),
        w=zeros(8, 6, 1, 1, dtype=np.int8),
        b=zeros(8, dtype=np.int32),
    )
    [layer] = layer_costs(made)
    assert (layer.op_type, layer.dtype, layer.macs, layer.parameters) == ("Conv", "int8", 16 * 48, 56)
    assert layer.weight_bytes == 48 + 4 * 8


def test_stored_weights_alone_leave_a_layer_in_float():
    made = graph(
        "(float[n,6] x) => (float[n,4] y) { d = DequantizeLinear(w, s) t = Transpose(d) y = MatMul(x, t) }",
        w=zeros(4, 6, dtype=np.int8),
        s=np.float32(0.1),
    )
    [layer] = layer_costs(made)
    assert (layer.dtype, layer.parameters, layer.weight_bytes) == ("float32", 24, 24)


def test_half_precision_is_told():
    made = graph("(float16[n,6] x) => (float16[n,4] y) { y = MatMul(x, w) }", w=zeros(6, 4, dtype=np.float16))
    assert layer_costs(made)[0].dtype == "float16"


BRANCHES = """(float[n,6] x, bool[1] c) => (float[n,k] y) {{
    y = If(c) <then_branch = yes () => (float[n,4] p) {{ h = MatMul(x, v) p = MatMul(h, w) }},
               else_branch = no () => (float[n,4] q) {{ q = MatMul(x, w0) }}> }}"""


def test_of_two_branches_the_costlier_counts():
    made = graph(BRANCHES.format(), v=zeros(6, 9), w=zeros(9, 4), w0=zeros(6, 4))
    assert [layer.macs for layer in layer_costs(made)] == [54, 36]


def test_the_body_of_a_loop_counts_once():
    made = graph(
        """(float[n,6] x, int64 trips, bool go) => (float[n,6] y) {
          y = Loop(trips, go, x) <body = body (int64 i, bool ok, float[n,6] h) => (bool ok2, float[n,6] h2)
              { ok2 = Identity(ok) h2 = MatMul(h, w) }> }""",
        w=zeros(6, 6),
    )
    assert total_macs(made) == 36


def test_functions_and_constant_nodes_are_seen_through():
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
      tested (float[n,3] x) => (float[n,2] y) { y = own.layer(x) }
      <domain: "own", opset_import: ["" : 21]> layer (a) => (b) {
        w = Constant<value = float[3,2] {1, 0, 2, 0, 3, 0}>() b = MatMul(a, w) }""")
    made = Graph(ir.serde.deserialize_model(model))
    [layer] = layer_costs(made)
    assert (layer.macs, layer.parameters, layer.output_shape) == (6, 6, "1x2")


def test_feeds_fix_dynamic_sizes():
    made = graph(
        "(float[n,l,6] x, int64[2] s) => (float[a,b,c] y) "
        "{ r = Reshape(x, s) t = MatMul(r, w) y = Unsqueeze(t, one) }",
        w=zeros(6, 4),
        one=np.asarray([0]),
    )
    feeds = {"x": zeros(2, 5, 6), "s": np.asarray([10, 6])}
    assert total_macs(made, feeds) == 10 * 24
    assert layer_costs(made, feeds)[0].output_shape == "10x4"


def test_nonzero_parameters():
    made = graph(
        """(float[n,3] x) => (float[n,2] y, float[n,2] u) {
          d = DequantizeLinear<axis=1>(q, s, z) y = MatMul(x, d)
          w = Constant<value = float[3,2] {1, 0, 2, 0, 3, 0}>() u = MatMul(x, w) }""",
        q=np.asarray([[5, 7], [5, 8], [0, 7]], np.uint8),
        s=np.asarray([1, 1], np.float32),
        z=np.asarray([5, 7], np.uint8),
    )
    assert made.parameters == 6 + 2 + 2 + 6
    assert nonzero_parameters(made) == 2 + 2 + 2 + 3


@pytest.mark.parametrize(
    ("widths", "blocks", "millions"), [((16, 32, 64), 3, 40.55), ((16, 32, 64), 9, 125.49)], ids=["20", "56"]
)
def test_published_resnets(widths, blocks, millions):
    """ResNet-20 and -56 for CIFAR-10, shortcuts without weights (He et al. 2016): 41 and 125 M."""
    nodes, weights, size, before, x = [], {}, 32, 3, "image"
    for stage, width in enumerate(widths):
        for block in range(2 * blocks + (stage == 0)):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"c{stage}_{block}"
            weights[f"w{name}"] = zeros(width, before, 3, 3)
            nodes.append(f"{name} = Conv<pads=[1,1,1,1], strides=[{stride},{stride}]>({x}, w{name})")
            x, before, size = name, width, size // stride
    weights["fc"] = zeros(64, 10)
    nodes.append(f"g = GlobalAveragePool({x}) f = Flatten(g) logits = MatMul(f, fc)")
    made = graph(f"(float[n,3,32,32] image) => (float[n,10] logits) {{ {' '.join(nodes)} }}", **weights)
    assert total_macs(made) / 1e6 == pytest.approx(millions, abs=0.01)
