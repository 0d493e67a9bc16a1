"""Attention: the fused kernel, the formula step by step, and queries that may see nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from hasten.bridge import to_torch
from hasten.bridge.dtypes import from_numpy
from hasten.graph import Graph

from .gradients import doubled
from .node_tests import OUT_OF_SCOPE_TESTS, all_node_tests
from .single import assert_close, single

HALVES = [name for name, test in all_node_tests().items() if "rounds once" in (test.out_of_scope or "")]


def tensors(query_heads=4, heads=2):
    torch.manual_seed(0)
    return [torch.randn(2, n, length, 8) for n, length in ((query_heads, 3), (heads, 5), (heads, 5))]


def masks():
    return {
        "none": None,
        "booleans": torch.rand(3, 5) > 0.3,
        "numbers": torch.randn(2, 1, 3, 5),
        "short": torch.randn(3, 4),
    }


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", masks())
def test_kernel_and_formula_agree(mask, causal):
    """Asking for the scores takes the formula step by step."""
    inputs = [*tensors(), masks()[mask]]
    feeds = [t for t in inputs if t is not None]
    fused = single("Attention", inputs, {"is_causal": causal}, opset=24)(*feeds)
    plain = single("Attention", inputs, {"is_causal": causal}, outputs=4, opset=24)(*feeds)[0]
    assert_close(fused, plain)


@pytest.mark.parametrize("outputs", [1, 4])
def test_a_query_that_sees_nothing_gives_zeros_and_finite_gradients(outputs):
    inputs = [*tensors(), torch.ones(3, 5, dtype=torch.bool)]
    inputs[3][1] = False
    feeds = [t.requires_grad_(t.is_floating_point()) for t in inputs]
    found = single("Attention", inputs, outputs=outputs, opset=24)(*feeds)
    y = found if outputs == 1 else found[0]
    assert not y[:, :, 1].any()
    y.square().sum().backward()
    assert all(t.grad.isfinite().all() for t in feeds[:3])


@pytest.mark.parametrize("name", HALVES)
def test_halves_are_nearer_the_exact_value_than_what_the_node_test_expects(name):
    """What puts these tests out of scope (node_tests.OUT_OF_SCOPE_TESTS) is rounding, and ours is smaller."""
    test = all_node_tests()[name]
    feeds, wanted = test.cases[0]
    halves = [from_numpy(np.asarray(v)) for v in feeds]
    doubles = [t.to(torch.float64) if t.is_floating_point() else t for t in halves]
    found = to_torch(Graph(ir.from_proto(test.model)))(*halves)
    exact = to_torch(Graph(ir.from_proto(doubled(test.model))))(*doubles)
    expected = from_numpy(np.asarray(wanted[0]))
    assert found.dtype == expected.dtype
    assert (found - exact).square().mean() <= (expected - exact).square().mean()


def test_the_halves_are_those_listed():
    assert len(HALVES) == 13
    assert any("rounds once" in reason for reason in OUT_OF_SCOPE_TESTS.values())
