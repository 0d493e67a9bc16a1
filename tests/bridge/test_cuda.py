"""The bridge's node tests on a GPU: what a module computes there is what the test expects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
import torch

from hasten.bridge import to_torch
from hasten.graph import Graph

from .node_tests import all_node_tests, assert_same, to_feed

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

# Weights that come in with the graph lie apart in memory, and cuDNN says that it brings them together.
pytestmark = pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
IN_SCOPE = [name for name, test in all_node_tests().items() if test.out_of_scope is None]


@pytest.fixture(autouse=True)
def _whole_float32() -> Iterator[None]:
    """Convolutions without TF32, which rounds their inputs to 10 bits."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@pytest.mark.parametrize("name", IN_SCOPE)
def test_node_on_cuda(name):
    test = all_node_tests()[name]
    # Sums are added up in another order than on the CPU.
    near = replace(test, rtol=2 * test.rtol, atol=max(test.atol, 1e-6))
    module = to_torch(Graph(ir.from_proto(test.model))).cuda().eval()
    for feeds, wanted in test.cases:
        with torch.no_grad():
            found = module(*(_moved(to_feed(value), "cuda") for value in feeds))
        outputs = found if isinstance(found, tuple) else (found,)
        assert len(outputs) == len(wanted)
        for output, expected in zip(outputs, wanted, strict=True):
            assert_same(_moved(output, "cpu"), expected, near)


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, list | tuple):
        return [_moved(v, device) for v in value]
    return value if value is None else value.to(device)
