"""Small graphs written as text, and the proof that a rewrite keeps what they compute."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.rewrites import Findings, Rewrite

OPSET = 21


def graph(text: str, opset: int = OPSET, ir_version: int = 10, **weights: np.ndarray) -> Graph:
    """``(inputs) => (outputs) { nodes }`` in ONNX's text form, with those of the weights that it names."""
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{head} tested {text}")
    for name, array in weights.items():
        if re.search(rf"\b{name}\b", text):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"n{number}"
    return Graph(ir.serde.deserialize_model(model))


def ops(made: Graph) -> Counter[str]:
    """How often each operator occurs, subgraphs included."""
    return Counter(node.op_type for owner in made.ir_model.graphs() for node in owner)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def proven(made: Graph, rewrite: Rewrite, **feeds: np.ndarray) -> Findings:
    """Rewrite in place; the outputs stay, the result is a valid model, and a second time changes nothing."""
    before = Evaluator(made, optimized=False).run(feeds)
    findings = rewrite(made)
    assert findings.sites
    assert all(site.name and site.op_type and site.what for site in findings.sites)
    onnx.checker.check_model(ir.serde.serialize_model(made.ir_model), full_check=True)
    after = Evaluator(made, optimized=False).run(feeds)
    assert after.keys() == before.keys()
    for name, wanted in before.items():
        assert after[name].dtype == wanted.dtype
        assert after[name].shape == wanted.shape
        if wanted.dtype.kind == "f":
            # two orders of summing up to 2^12 float32 products: about 2^6 roundoffs, twice over for margin
            size = float(np.abs(wanted).max()) if wanted.size else 0.0
            np.testing.assert_allclose(after[name], wanted, rtol=0, atol=2.0**-24 * 2**7 * size)
        else:
            np.testing.assert_array_equal(after[name], wanted)
    assert not rewrite(made).sites
    return findings


def refused(made: Graph, rewrite: Rewrite) -> Findings:
    """The rewrite leaves the graph as it is."""
    before = ir.serde.serialize_model(made.ir_model)
    findings = rewrite(made)
    assert not findings.sites
    after = ir.serde.serialize_model(made.ir_model)
    for field in ("node", "initializer"):
        kept = [[item.SerializeToString() for item in getattr(m.graph, field)] for m in (before, after)]
        assert kept[0] == kept[1]
    return findings
