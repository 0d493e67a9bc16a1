"""GELU written in five nodes runs as one, in any order of factors, and is written back as it was."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from hasten.bridge import to_torch
from hasten.bridge.fuse import fuse_gelu
from hasten.graph import Graph

from .single import assert_close

HEAD = '<ir_version: 10, opset_import: ["" : 18]> g (float[2,5] x) => (float[2,5] y'
NUMBERS = {"r": 1.41421356, "s": 0.70710678, "one": 1.0, "half": 0.5, "two": 2.0}
CONSTANTS = ", ".join(f"float {name} = {{{value}}}" for name, value in NUMBERS.items())
FORMS = {
    "half last": "d = Div (x, r) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
    "half first": "d = Mul (s, x) e = Erf (d) a = Add (one, e) h = Mul (x, half) y = Mul (h, a)",
    "half between": "d = Div (x, r) e = Erf (d) a = Add (e, one) m = Mul (half, a) y = Mul (m, x)",
}
OTHERS = {
    "another constant": "d = Div (x, two) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
    "another operand": "d = Div (x, r) e = Erf (d) a = Add (e, one) m = Mul (d, a) y = Mul (m, half)",
    "the sum is read": (
        "d = Div (x, r) e = Erf (d) a = Add (e, one) m = Mul (x, a) n = Mul (m, half) y = Sub (n, a)"
    ),
    "no product": "d = Div (x, r) e = Erf (d) a = Add (e, one) y = Sub (x, a)",
}


def model(body, outputs=""):
    return ir.from_proto(onnx.parser.parse_model(f"{HEAD}{outputs}) <{CONSTANTS}> {{ {body} }}"))


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_every_form_is_one_step(body):
    module = to_torch(Graph(model(body)))
    x = torch.randn(2, 5)
    assert [step.name.split("(")[-1] for step in module.program.steps] == ["Gelu)"]
    assert_close(module(x), functional.gelu(x))
    assert [node.op_type for node in module.to_graph().ir_model.graph].count("Erf") == 1


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_what_only_looks_like_it_stays(body):
    assert fuse_gelu(model(body)) == 0


def test_inner_values_stay_readable():
    body = FORMS["half last"]
    x = torch.randn(2, 5)
    y, inner = to_torch(Graph(model(body)), inner=["e"])(x)
    assert_close((y, inner), (functional.gelu(x), torch.erf(x / 2**0.5)))
    assert fuse_gelu(model(body, outputs=", float[2,5] a")) == 0
