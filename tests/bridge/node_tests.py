"""The node tests that ship with the onnx package, and what of them is not the bridge's business."""

from __future__ import annotations

import functools
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from hasten.bridge.dtypes import from_numpy, to_numpy
from hasten.graph import Graph

OUT_OF_SCOPE = {
    r"ai\.onnx\.ml": "classical machine learning has no gradients",
    r"ai\.onnx\.preview\.training": "optimizers as operators: torch has its own",
    r"ImageDecoder|RegexFullMatch|String\w+|TfIdfVectorizer": "strings and files; torch has no such tensors",
}
"""Operators (a pattern of ``[domain.]OpType``) the bridge does not claim, with the reason."""

OUT_OF_SCOPE_TESTS: dict[str, str] = {
    r"bernoulli.*|training_dropout(_default)?(_mask)?": "expects the numbers of numpy's random generator",
    r"dft_inverse(_opset19)?": "expects the noise of one float32 transform, 2e-7 where the exact value is 0",
    r"scan_sum": "Scan as it was in opset 8, with a batch axis; the bridge begins at opset 9",
    r"equal_string.*": "strings; torch has no such tensors",
    r"attention_4d_fp16|attention_3d_causal_bf16(_expanded)?"
    r"|attention_4d_(causal_fp16|(attn_mask_)?causal_bf16|(causal_)?padded_kv_bf16)(_expanded)?": (
        "expects a rounding to half precision after every step; torch rounds once, nearer the exact value"
    ),
}
"""Single tests (a pattern of the name) the bridge does not pass, with the reason."""


@dataclass(frozen=True)
class NodeTest:
    """One test: a model, its feeds and what must come out."""

    name: str
    model: onnx.ModelProto
    cases: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float

    @property
    def operators(self) -> set[str]:
        """Operators of the model, with their domain unless it is the default one."""
        return {f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in self.model.graph.node}

    @property
    def out_of_scope(self) -> str | None:
        """Why this test is not the bridge's business; None when it is."""
        for pattern, reason in OUT_OF_SCOPE.items():
            if any(re.fullmatch(f"(?:{pattern})(?:\\..*)?", name) for name in self.operators):
                return reason
        found = (reason for pattern, reason in OUT_OF_SCOPE_TESTS.items() if re.fullmatch(pattern, self.name))
        return next(found, None)


@functools.cache
def all_node_tests() -> dict[str, NodeTest]:
    """Every node test by name, without its prefix ``test_``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    return {
        case.name.removeprefix("test_"): NodeTest(
            case.name.removeprefix("test_"), case.model, case.data_sets, case.rtol, case.atol
        )
        for case in cases
        if case.model is not None
    }


def as_array(value: Any) -> np.ndarray[Any, Any]:
    """The value of a tensor of a test, which some tests hold as a message."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def to_feed(value: Any) -> Any:
    """A tensor, a list of tensors for a sequence, None for an empty optional."""
    if value is None:
        return None
    if isinstance(value, list):
        return [to_feed(v) for v in value]
    return from_numpy(as_array(value))


def run(test: NodeTest) -> None:
    """Run a test through the bridge; raises AssertionError when an output is not the expected one."""
    from hasten.bridge import to_torch

    module = to_torch(Graph(ir.from_proto(test.model))).eval()
    for feeds, wanted in test.cases:
        with torch.no_grad():
            found = module(*(to_feed(v) for v in feeds))
        outputs = found if isinstance(found, tuple) else (found,)
        assert len(outputs) == len(wanted)
        for output, expected in zip(outputs, wanted, strict=True):
            assert_same(output, expected, test)


def assert_same(found: Any, wanted: Any, test: NodeTest) -> None:
    """Compare as the onnx package's own runner does: shape, element type, values to the test's tolerance."""
    if wanted is None:
        assert found is None
        return
    if isinstance(wanted, list):
        assert isinstance(found, list)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other, test)
        return
    expected = as_array(wanted)
    assert isinstance(found, torch.Tensor)
    assert tuple(found.shape) == expected.shape
    assert found.dtype == from_numpy(expected).dtype
    array = to_numpy(found, ir.DataType.from_numpy(expected.dtype))
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(array, expected)
        return
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):  # torch's conversions make signalling NaNs
        array, expected = array.astype(wide), expected.astype(wide)
    np.testing.assert_allclose(array, expected, rtol=test.rtol, atol=test.atol, equal_nan=True)
