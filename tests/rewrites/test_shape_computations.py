"""Computed shapes become constants where that is provably the same."""

import numpy as np
import pytest

from hasten.graph.shapes import annotate, forget
from hasten.rewrites import simplify_shapes
from hasten.rewrites.dimensions import Dimensions
from hasten.rewrites.elements import Named, Product

from .proof import graph, normal, ops, proven, refused
from .sweep import swept

INTS = {
    "zero": np.asarray([0]),
    "one": np.asarray([1]),
    "two": np.asarray([2]),
    "three": np.asarray([3]),
    "minus": np.asarray([-1]),
    "twelve": np.asarray([12]),
    "first": np.asarray(0),
    "second": np.asarray(1),
    "double": np.asarray(2),
}


def shaped(text, **weights):
    used = {
        name: v
        for name, v in INTS.items()
        if f" {name})" in text or f" {name}," in text or f"({name}," in text
    }
    return graph(text, **used, **weights)


def target(made):
    node = next(n for n in made.ir_model.graph if n.op_type == "Reshape")
    return made.weights[node.inputs[1].name].const_value.numpy().tolist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            """(float[n,s,12] x) => (float[n,s,3,4] y) {
              k = Shape(x) b = Gather(k, first) l = Gather(k, second)
              b1 = Unsqueeze(b, zero) l1 = Unsqueeze(l, zero)
              t = Concat<axis=0>(b1, l1, three, minus) y = Reshape(x, t) }""",
            [0, 0, 3, -1],
        ),
        (
            """(float[n,s,12] x) => (float[n,12,s] y) {
              h = Relu(x) b = Shape<start=0, end=1>(x) l = Shape<start=1, end=2>(h)
              t = Concat<axis=0>(b, twelve, l) y = Reshape(h, t) }""",
            [0, 12, -1],
        ),
        (
            """(float[n,s,12] x) => (float[m,12] y) {
              k = Shape(x) b = Gather(k, first) l = Gather(k, second) p = Mul(b, l) q = Unsqueeze(p, zero)
              t = Concat<axis=0>(q, twelve) y = Reshape(x, t) }""",
            [-1, 12],
        ),
        (
            """(float[n,s,12] x) => (float[n,s,12] y) {
              a = Transpose<perm=[1,0,2]>(x) k = Shape(a) c = Cast<to=6>(k)
              n1 = Slice(c, one, two) s1 = Slice(c, zero, one, zero) d = Cast<to=7>(n1) e = Cast<to=7>(s1)
              b = Transpose<perm=[1,0,2]>(a) t = Concat<axis=0>(d, e, minus) y = Reshape(b, t) }""",
            [0, 0, -1],
        ),
    ],
)
def test_targets_become_constants(text, wanted):
    made = shaped(text)
    proven(made, swept(simplify_shapes.apply), x=normal(2, 5, 12))
    assert target(made) == wanted
    assert not ops(made)["Shape"]


def test_two_inputs_share_a_named_size():
    made = shaped(
        """(float[n,s,12] x, int64[n,s] mask) => (float[n,s,3,4] y) {
          b = Shape<start=0, end=2>(mask) t = Concat<axis=0>(b, three, minus) y = Reshape(x, t) }"""
    )
    proven(made, swept(simplify_shapes.apply), x=normal(2, 5, 12), mask=np.ones((2, 5), np.int64))
    assert target(made) == [0, 0, 3, -1]


@pytest.mark.parametrize("name", ["?", "-1", "None"])
def test_a_name_that_says_nothing_makes_no_sizes_equal(name):
    made = shaped(
        """(float[n,s,12] x, int64[m,k] other) => (float[a,b,c,d] y) {
          b = Shape<start=0, end=2>(other) t = Concat<axis=0>(b, three, minus) y = Reshape(x, t) }"""
    )
    import onnx_ir as ir

    for value in made.ir_model.graph.inputs:
        value.shape = ir.Shape([d if isinstance(d, int) else name for d in value.shape])
    refused(made, simplify_shapes.apply)


@pytest.mark.parametrize(
    "text",
    [
        # two sizes of another input
        "(float[n,12] x, float[p,q] z) => (float[a,b] y) { t = Shape(z) y = Reshape(x, t) }",
        # allowzero: a zero is a size
        "(float[n,12] x) => (float[a,b] y) "
        "{ b = Shape<start=0, end=1>(x) t = Concat<axis=0>(b, zero) y = Reshape<allowzero=1>(x, t) }",
        # the number of rows found may be 0, which would leave -1 undetermined
        "(float[n,12] x, float[k,12] z) => (float[a,b] y) { f = NonZero(x) u = Transpose<perm=[1,0]>(f) "
        "k = Shape(u) b = Slice(k, zero, one) e = Shape<start=0, end=1>(z) t = Concat<axis=0>(b, e) "
        "r = Reshape(u, t) y = Cast<to=1>(r) }",
    ],
)
def test_targets_stay(text):
    made = shaped(text)
    refused(made, simplify_shapes.apply)


def test_known_sizes_are_numbers():
    made = shaped(
        """(float[n,6,12] x) => (float[n,6,12] y) {
          k = Shape(x) c = Gather(k, second) f = Cast<to=1>(c) y = Mul(x, f) }"""
    )
    proven(made, swept(simplify_shapes.apply), x=normal(2, 6, 12))
    assert ops(made) == {"Cast": 1, "Mul": 1}


def test_an_expand_to_the_same_sizes_goes():
    made = shaped(
        """(float[n,s] x) => (float[n,s] y) {
          h = Relu(x) k = Shape(x) e = Expand(h, k) y = Neg(e) }"""
    )
    proven(made, swept(simplify_shapes.apply), x=normal(2, 5))
    assert ops(made) == {"Relu": 1, "Neg": 1}


def test_an_expand_to_other_sizes_stays():
    refused(
        shaped("(float[n,1] x, float[n,s] z) => (float[n,s] y) { k = Shape(z) y = Expand(x, k) }"),
        simplify_shapes.apply,
    )


def test_sizes_are_traced_through_operators():
    made = shaped(
        """(float[n,s,12] x, int64[n,s] ids) => (float[p,q] out) {
          m = MatMul(x, w) t = Transpose<perm=[0,2,1]>(m) b = MatMul(t, m)
          u = Unsqueeze(b, one) v = Squeeze(u, one) g = Gather(table, ids) a = Add(g, x)
          c = Concat<axis=-1>(a, x) f = Reshape(c, flat) out = Relu(f) }""",
        w=normal(12, 7),
        table=normal(9, 12),
        flat=np.asarray([-1, 24]),
    )
    forget(made)
    annotate(made)
    dims = Dimensions(made.ir_model.graph)
    values = {v.name: v for node in made.ir_model.graph for v in node.outputs}
    n, s = Named("n"), Named("s")
    assert dims.shape(values["m"]) == (n, s, 7)
    assert dims.shape(values["t"]) == (n, 7, s)
    assert dims.shape(values["b"]) == (n, 7, 7)
    assert dims.shape(values["v"]) == (n, 7, 7)
    assert dims.shape(values["a"]) == (n, s, 12)
    assert dims.shape(values["c"]) == (n, s, 24)
    assert dims.shape(values["out"]) == (Product(1, frozenset({(n, 1), (s, 1)})), 24)
