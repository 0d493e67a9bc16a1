"""Operators whose node tests leave cases out, beside ONNX Runtime on random inputs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, shape_inference

from hasten.bridge import to_torch
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

PICTURES = np.random.default_rng(1).normal(size=(2, 3, 9, 11)).astype(np.float32)


def compare(
    op_type: str,
    inputs: dict[str, np.ndarray],
    opset: int,
    *,
    fixed: frozenset[str] = frozenset(),
    outputs: int = 1,
    **attributes: Any,
) -> None:
    """Run one node in both; ``fixed`` inputs are known when the graph is compiled, "-" marks absent ones."""
    given = {name: array for name, array in inputs.items() if not name.startswith("-")}
    names = ["" if name.startswith("-") else name for name in inputs]
    results = [f"y{i}" for i in range(outputs)]
    body = helper.make_graph(
        [helper.make_node(op_type, names, results, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in given.items()
            if name not in fixed
        ],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results],
        [numpy_helper.from_array(given[name], name) for name in given if name in fixed],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    graph = Graph(ir.from_proto(shape_inference.infer_shapes(model)))
    feeds = {name: array for name, array in given.items() if name not in fixed}
    expected = Evaluator(graph).run(feeds)
    with torch.no_grad():
        found = to_torch(graph)(*(torch.from_numpy(array) for array in feeds.values()))
    for tensor, wanted in zip(
        found if isinstance(found, tuple) else (found,), expected.values(), strict=True
    ):
        assert tuple(tensor.shape) == wanted.shape
        assert tensor.numpy().dtype == wanted.dtype
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=1e-4, atol=1e-4)


RULES = [
    *itertools.product(
        ["nearest"],
        ["half_pixel", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"],
        ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"],
        [0],
        [0],
    ),
    *itertools.product(
        ["linear"], ["half_pixel", "asymmetric", "half_pixel_symmetric"], ["floor"], [0, 1], [0]
    ),
    *itertools.product(["cubic"], ["half_pixel", "asymmetric"], ["floor"], [0, 1], [0, 1]),
]


@pytest.mark.parametrize(("mode", "places", "nearest", "antialias", "inside"), RULES)
def test_resize(mode, places, nearest, antialias, inside):
    rule = {
        "mode": mode,
        "coordinate_transformation_mode": places,
        "nearest_mode": nearest,
        "antialias": antialias,
        "exclude_outside": inside,
    }
    absent = np.zeros(0, np.float32)
    for pair in ((2.0, 2.0), (0.5, 0.55), (3.0, 1.0)):
        scales = np.array([1, 1, *pair], np.float32)
        inputs = {"x": PICTURES, "-roi": absent, "s": scales}
        compare("Resize", inputs, 19, fixed=frozenset({"s"}), **rule)
    for size in ((7, 20), (1, 1), (18, 5)):
        sizes = np.array([2, 3, *size])
        inputs = {"x": PICTURES, "-roi": absent, "-scales": absent, "z": sizes}
        compare("Resize", inputs, 19, fixed=frozenset({"z"}), **rule)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_to_corners_and_of_crops(mode):
    absent = np.zeros(0, np.float32)
    roi = np.array([0, 0, 0.1, -0.2, 1, 1, 0.9, 1.1], np.float32)
    sizes = np.array([2, 3, 7, 20])
    inputs = {"x": PICTURES, "-roi": absent, "-scales": absent, "z": sizes}
    compare(
        "Resize", inputs, 19, coordinate_transformation_mode="align_corners", mode=mode, nearest_mode="floor"
    )
    inputs = {"x": PICTURES, "roi": roi, "-scales": absent, "z": sizes}
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 5.0}
    compare("Resize", inputs, 19, fixed=frozenset({"roi"}), mode=mode, nearest_mode="floor", **crop)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("op_type", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_first_versions_of_resize(op_type, opset, mode):
    for pair in ((2, 3), (1.5, 1.7), (1, 2.5)):
        scales = np.array([1, 1, *pair], np.float32)
        compare(op_type, {"x": PICTURES, "s": scales}, opset, fixed=frozenset({"s"}), mode=mode)


def test_resize_after_inference_mode_trains():
    """What is worked out for a size in inference mode serves training too."""
    text = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic", cubic_coeff_a=-0.5)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, PICTURES.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")],
    )
    model = helper.make_model(text, opset_imports=[helper.make_opsetid("", 19)], ir_version=8)
    module = to_torch(Graph(ir.from_proto(shape_inference.infer_shapes(model))))
    x = torch.from_numpy(PICTURES)
    with torch.inference_mode():
        expected = module(x).clone()
    x.requires_grad_()
    found = module(x)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), expected)
    assert x.grad is not None
    # Every output is a mean of inputs with weights that add up to one.
    torch.testing.assert_close(x.grad.sum(), torch.tensor(float(found.numel())), rtol=1e-4, atol=0)


def regions(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    corners = np.sort(rng.uniform(low, high, (5, 2, 2)), axis=1).reshape(5, 4)
    return np.concatenate([rng.integers(0, 2, (5, 1)), corners], 1).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_max_roi_pool(scale):
    rois = regions(np.random.default_rng(2), 0, 8)
    compare("MaxRoiPool", {"x": PICTURES, "r": rois}, 16, pooled_shape=[2, 3], spatial_scale=scale)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 1, 2])
@pytest.mark.parametrize(("opset", "places"), [(10, None), (16, "half_pixel"), (16, "output_half_pixel")])
def test_roi_align(mode, ratio, opset, places):
    rois = regions(np.random.default_rng(3), -2, 14)
    inputs = {"x": PICTURES, "r": rois[:, 1:].copy(), "b": rois[:, 0].astype(np.int64)}
    extra = {} if places is None else {"coordinate_transformation_mode": places}
    sizes = {"output_height": 2, "output_width": 3, "sampling_ratio": ratio, "spatial_scale": 0.7}
    compare("RoiAlign", inputs, opset, mode=mode, **sizes, **extra)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [(0, 0, 2, 1, 0, 0, 3, 2), (1, 2, 0, 3, 0, 1, 4, 0)])
def test_pad(mode, pads):
    compare("Pad", {"x": PICTURES, "p": np.array(pads)}, 19, fixed=frozenset({"p"}), mode=mode)
    compare("Pad", {"x": PICTURES, "p": np.array(pads)}, 19, mode=mode)


def test_pad_cuts_where_negative_and_fills_with_a_value_of_run_time():
    pads, value = np.array([0, -1, 2, -3, 0, 0, -4, 1]), np.array(3, np.float32)
    compare("Pad", {"x": PICTURES, "p": pads, "v": value}, 19)


@pytest.mark.parametrize("steps", [(1, 2), (-1, 3), (-2, -3)])
def test_slice(steps):
    far = np.iinfo(np.int64)
    edges = [(0, far.max) if step > 0 else (far.max, far.min) for step in steps]
    for starts, ends in (((-1, 2), (-8, 9)), ((8, 10), (1, 0)), zip(*edges, strict=True)):
        inputs = {
            "x": PICTURES,
            "a": np.array(starts),
            "e": np.array(ends),
            "at": np.array([2, -1]),
            "s": np.array(steps),
        }
        compare("Slice", inputs, 13)
        compare("Slice", inputs, 13, fixed=frozenset({"a", "e", "at", "s"}))


@pytest.mark.parametrize("centered", [0, 1])
def test_non_max_suppression(centered):
    rng = np.random.default_rng(4)
    inputs = {
        "b": rng.uniform(0, 1, (2, 12, 4)).astype(np.float32),
        "s": rng.uniform(0, 1, (2, 3, 12)).astype(np.float32),
        "m": np.array([4]),
        "o": np.array([0.3], np.float32),
        "t": np.array([0.2], np.float32),
    }
    compare("NonMaxSuppression", inputs, 11, fixed=frozenset({"m", "o", "t"}), center_point_box=centered)


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("in_order", [0, 1])
def test_unique(axis, in_order):
    x = np.random.default_rng(6).integers(0, 3, (4, 3)).astype(np.float32)
    extra = {} if axis is None else {"axis": axis}
    compare("Unique", {"x": x}, 11, outputs=4, sorted=in_order, **extra)


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("peepholes", [False, True])
def test_recurrent_layers_that_clip(op_type, gates, peepholes):
    rng = np.random.default_rng(7)
    shapes = {"x": (5, 2, 4), "w": (2, gates * 3, 4), "r": (2, gates * 3, 3), "b": (2, gates * 6)}
    shapes |= {"-": (), "h": (2, 2, 3)}
    if op_type == "LSTM":
        shapes |= {"c": (2, 2, 3)} | ({"p": (2, 9)} if peepholes else {})
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    options = {"hidden_size": 3, "direction": "bidirectional", "clip": 0.4}
    compare(op_type, inputs, 14, outputs=3 if op_type == "LSTM" else 2, **options)


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("auto_pad", ["VALID", "NOTSET"])
def test_pools_that_round_up(op_type, auto_pad):
    options = {"kernel_shape": [2, 3], "strides": [3, 3], "ceil_mode": 1, "auto_pad": auto_pad}
    compare(op_type, {"x": PICTURES}, 19, **options)
