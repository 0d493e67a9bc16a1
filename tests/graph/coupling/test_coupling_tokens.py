"""Coupling through what networks for sequences are made of."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from coupling_law import agree, feeds_for, graph, holds, some, widths
from hypothesis import given
from hypothesis import strategies as st

from hasten.graph.coupling import couple, prepare

TOKENS = "(float[n,t,12] x)"
OUT = "(float[n,a,b] y)"
ROOT = np.float32(0.5)


def test_a_gated_feed_forward():
    """SwiGLU between the additions of a residual stream that is normalized, so that it stays."""
    made = graph(
        f"{TOKENS} => {OUT} {{ e = MatMul(x, we) h = LayerNormalization(e, g, b) p = MatMul(h, w1)"
        " q = MatMul(h, w2) s = Sigmoid(p) u = Mul(p, s) m = Mul(u, q) d = MatMul(m, w3) r = Add(e, d)"
        " o = LayerNormalization(r, g, b) y = MatMul(o, w4) }",
        we=(12, 12), g=(12,), b=(12,), w1=(12, 20), w2=(12, 20), w3=(20, 12), w4=(12, 3),
    )  # fmt: skip
    coupling = holds(made, {"MatMul:p": 20})
    reasons = {skip.name: skip.reason for skip in coupling.fixed}
    assert set(reasons) == {"MatMul:e", "MatMul:d", "MatMul:y"}
    assert "normalizes over it" in reasons["MatMul:e"]


def test_tokens_without_normalization_have_a_free_stream():
    made = graph(
        f"{TOKENS} => {OUT} {{ e = MatMul(x, we) f = Add(e, be) p = MatMul(f, w1) q = Gelu(p)"
        " d = MatMul(q, w3) r = Add(f, d) y = MatMul(r, w4) }",
        20,
        we=(12, 8), be=(8,), w1=(8, 20), w3=(20, 8), w4=(8, 3),
    )  # fmt: skip
    holds(made, {"MatMul:e": 8, "MatMul:p": 20})


def attention(scores: str = "r = Mul(s, root)", join: str = "to2") -> str:
    """From the queries q, keys k and values v, [n, t, 12], to y."""
    return (
        " q4 = Reshape(q, to) k4 = Reshape(k, to) v4 = Reshape(v, to) qt = Transpose<perm=[0,2,1,3]>(q4)"
        " kt = Transpose<perm=[0,2,3,1]>(k4) vt = Transpose<perm=[0,2,1,3]>(v4) s = MatMul(qt, kt)"
        f" {scores} p = Softmax<axis=-1>(r) m = MatMul(p, vt) b = Transpose<perm=[0,2,1,3]>(m)"
        f" j = Reshape(b, {join}) y = MatMul(j, wo) }}"
    )


SHAPES = {"to": np.array([0, 0, 3, 4]), "to2": np.array([0, 0, 12]), "root": ROOT, "wo": (12, 5)}
SEPARATE = (
    "q0 = MatMul(x, wq) q = Add(q0, bq) k0 = MatMul(x, wk) k = Add(k0, bk) v0 = MatMul(x, wv) v = Add(v0, bv)"
)
OWN = {"wq": (12, 12), "bq": (12,), "wk": (12, 12), "bk": (12,), "wv": (12, 12), "bv": (12,)}
SIDES = {"outer": {"MatMul:q0": 3}, "inner": {"MatMul:q0": 4, "MatMul:v0": 4}}


@pytest.mark.parametrize("side", SIDES)
def test_heads_of_attention_and_what_lies_inside(side):
    made = graph(f"{TOKENS} => {OUT} {{ {SEPARATE} {attention()}", **OWN, **SHAPES)
    coupling = holds(made, SIDES[side], side=side)
    assert all(width.attended for width in coupling.widths)


@pytest.mark.parametrize("side", SIDES)
def test_attention_with_a_mask(side):
    scores = (
        "s2 = Div(s, root) f = Cast<to=1>(mask) u = Unsqueeze(f, ax) o = Sub(one, u) w = Mul(o, far)"
        " r = Add(s2, w)"
    )
    made = graph(
        f"(float[n,t,12] x, int64[n,t] mask) => {OUT} {{ {SEPARATE} {attention(scores)}",
        **OWN, **SHAPES, ax=np.array([1, 2]), one=np.float32(1), far=np.float32(-9),
    )  # fmt: skip
    holds(made, SIDES[side], side=side)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("last", [-1, 12])
def test_attention_with_lengths_that_are_computed(side, last):
    """As exporters write it: the shape is asked for, and put together with numbers of heads."""
    lengths = (
        "shape = Shape(x) n0 = Gather(shape, i0) t0 = Gather(shape, i1) n1 = Unsqueeze(n0, ax)"
        " t1 = Unsqueeze(t0, ax) to = Concat<axis=0>(n1, t1, heads, size) to2 = Concat<axis=0>(n1, t1, all)"
    )
    made = graph(
        f"{TOKENS} => {OUT} {{ {lengths} {SEPARATE} {attention()}",
        **OWN, root=ROOT, wo=(12, 5), i0=np.array(0), i1=np.array(1), ax=np.array([0]), heads=np.array([3]),
        size=np.array([4]), all=np.array([last]),
    )  # fmt: skip
    holds(made, SIDES[side], side=side)


PACKED = {
    "split": "q, k, v = Split<axis=2>(z, thirds)",
    "slice": "q = Slice(z, c0, c12, last) k = Slice(z, c12, c24, last) v = Slice(z, c24, end, last)",
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("form", PACKED)
def test_attention_whose_weights_lie_together(form, side):
    made = graph(
        f"{TOKENS} => {OUT} {{ m0 = MatMul(x, w) z = Add(m0, wb) {PACKED[form]} {attention()}",
        w=(12, 36), wb=(36,), thirds=np.array([12, 12, 12]), c0=np.array([0]), c12=np.array([12]),
        c24=np.array([24]), end=np.array([2**31]), last=np.array([-1]), **SHAPES,
    )  # fmt: skip
    wanted = {"outer": {"MatMul:m0": 3}, "inner": {"MatMul:m0": 4, "MatMul:m0#2": 4}}
    holds(made, wanted[side], side=side)


STACKED = {
    "gather": "q = Gather<axis=0>(f, i0) k = Gather<axis=0>(f, i1) v = Gather<axis=0>(f, i2)",
    "split and squeeze": "q1, k1, v1 = Split<axis=0, num_outputs=3>(f) q = Squeeze(q1, first)"
    " k = Squeeze(k1, first) v = Squeeze(v1, first)",
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("form", STACKED)
def test_attention_of_vision_transformers(form, side):
    """[n, t, 3 · heads · size] → [3, n, heads, t, size], then the three parts of it."""
    made = graph(
        f"(float[n,7,12] x) => {OUT} {{ m0 = MatMul(x, w) z = Add(m0, wb) a = Reshape(z, apart)"
        f" f = Transpose<perm=[2,0,3,1,4]>(a) {STACKED[form]} kt = Transpose<perm=[0,1,3,2]>(k)"
        " s = MatMul(q, kt) r = Mul(s, root) p = Softmax<axis=-1>(r) m = MatMul(p, v)"
        " b = Transpose<perm=[0,2,1,3]>(m) j = Reshape(b, to2) y = MatMul(j, wo) }",
        w=(12, 36), wb=(36,), apart=np.array([-1, 7, 3, 3, 4]), i0=np.array(0), i1=np.array(1),
        i2=np.array(2), first=np.array([0]), **SHAPES,
    )  # fmt: skip
    wanted = {"outer": {"MatMul:m0": 3}, "inner": {"MatMul:m0": 4}}
    holds(made, wanted[side], side=side)


@pytest.mark.parametrize("table", ["stored", "computed"])
def test_attention_whose_positions_are_looked_up(table):
    """A number for each head and distance, as Swin Transformers add them."""
    rows = "" if table == "stored" else "h = Relu(places) rows = MatMul(h, wp) "
    made = graph(
        f"(float[n,7,12] x) => {OUT} {{ {SEPARATE} {rows}found = GatherND(rows, pairs)"
        " square = Reshape(found, grid)"
        " heads = Transpose<perm=[2,0,1]>(square) bias = Unsqueeze(heads, first)"
        f" {attention('r = Add(s, bias)')}",
        **OWN, **SHAPES, pairs=np.arange(49).reshape(49, 1) % 5, grid=np.array([7, 7, 3]),
        first=np.array([0]),
        **({"rows": (5, 3)} if table == "stored" else {"places": (5, 4), "wp": (4, 3)}),
    )  # fmt: skip
    holds(made, SIDES["outer"])


JOINED = {
    "multiplied so": "s = MatMul(qh, ks) p = Softmax<axis=-1>(s) m = MatMul(p, vh) m4 = Reshape(m, apart)",
    "apart again": "q4 = Reshape(qh, apart) kt4 = Reshape(ks, apart_t) v4 = Reshape(vh, apart)"
    " s = MatMul(q4, kt4) p = Softmax<axis=-1>(s) m4 = MatMul(p, v4)",
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("samples", ["n", "2"])
@pytest.mark.parametrize("form", JOINED)
def test_heads_that_are_joined_with_samples(form, samples, side):
    """As torch.nn.MultiheadAttention does it: [t, n, heads · size] → [n · heads, t, size], and back."""
    heads = " ".join(
        f"{each}t = Transpose<perm=[1,0,2]>({each}) {each}j = Reshape({each}t, join)"
        f" {each}h = Transpose<perm=[1,0,2]>({each}j)"
        for each in "qkv"
    )
    made = graph(
        f"(float[{samples},7,12] x) => {OUT} {{ {SEPARATE} {heads} ks = Transpose<perm=[0,2,1]>(kh)"
        f" {JOINED[form]} b = Transpose<perm=[2,0,1,3]>(m4) j = Reshape(b, rows) y0 = Gemm(j, wo)"
        " y = Reshape(y0, out) }",
        **OWN, join=np.array([7, -1, 4]), apart=np.array([-1, 3, 7, 4]), apart_t=np.array([-1, 3, 4, 7]),
        rows=np.array([-1, 12]), wo=(12, 5), out=np.array([7, -1, 5]),
    )  # fmt: skip
    holds(made, SIDES[side], side=side)


def test_heads_beside_a_length_that_only_happens_to_fit():
    """What is added along an axis of heads and samples has entries that nothing ties to the heads."""
    made = graph(
        f"(float[n,7,12] x, float[m,7,4] other) => {OUT} {{ q = MatMul(x, wq) qt = Transpose<perm=[1,0,2]>(q)"
        " qj = Reshape(qt, join) qh = Transpose<perm=[1,0,2]>(qj) a = Add(qh, other) a4 = Reshape(a, apart)"
        " b = Transpose<perm=[2,0,1,3]>(a4) j = Reshape(b, rows) y0 = Gemm(j, wo) y = Reshape(y0, out) }",
        wq=(12, 12), join=np.array([7, -1, 4]), apart=np.array([-1, 3, 7, 4]), rows=np.array([-1, 12]),
        wo=(12, 5), out=np.array([7, -1, 5]),
    )  # fmt: skip
    assert widths(couple(prepare(made))) == {}


@given(st.data())
def test_any_way_of_joining_and_dividing(data):
    """Parts of a width, with the samples before them, joined to axes in one way and then in another."""
    parts = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    samples, side = data.draw(st.sampled_from(["n", "2"])), data.draw(st.sampled_from(["outer", "inner"]))
    shapes = [data.draw(_axes_of(parts)) for _ in range(2)]
    width = int(np.prod(parts))
    made = graph(
        f"(float[{samples},6] x) => (float[a,b] y) {{ m = MatMul(x, w) r0 = Reshape(m, s0) r1 = Relu(r0)"
        " r2 = Reshape(r1, s1) r3 = Tanh(r2) r4 = Reshape(r3, rows) y = MatMul(r4, v) }",
        w=(6, width), v=(width, 3), rows=np.array([-1, width]),
        **{f"s{number}": np.array(shape) for number, shape in enumerate(shapes)},
    )  # fmt: skip
    coupling = couple(prepare(made), side=side)
    for seed in range(3):
        agree(prepare(made), coupling, some(coupling, seed), feeds_for(made, seed, free=2))


@st.composite
def _axes_of(draw, parts):
    """A shape of neighbouring parts, joined; the first axis has the samples, alone or with parts."""
    ends = [*sorted(draw(st.sets(st.integers(0, len(parts))))), len(parts)]
    groups = [parts[start:end] for start, end in pairwise([0, *ends])]
    return [-1, *(int(np.prod(group)) for group in groups[1:] if group)]


@pytest.mark.parametrize("side", ["outer", "inner"])
def test_the_attention_operator_of_three_axes(side):
    made = graph(
        f"{TOKENS} => {OUT} {{ q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
        " m = Attention<q_num_heads=3, kv_num_heads=3, scale=0.3>(q, k, v) y = MatMul(m, wo) }",
        23,
        wq=(12, 12), wk=(12, 12), wv=(12, 18), wo=(18, 5),
    )  # fmt: skip
    holds(made, {"MatMul:q": 3}, side=side)


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 3, 5, 5), (5, 5), (2, 1, 5, 5)])
def test_the_attention_operator_with_a_mask(shape):
    made = graph(
        f"(float[2,5,12] x) => {OUT} {{ q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
        " m = Attention<q_num_heads=3, kv_num_heads=3>(q, k, v, mask) y = MatMul(m, wo) }",
        23,
        wq=(12, 12), wk=(12, 12), wv=(12, 12), wo=(12, 5), mask=shape,
    )  # fmt: skip
    holds(made, {"MatMul:q": 3})


def test_positions_of_a_mask_that_is_made_stay():
    made = graph(
        f"(float[2,5,12] x, float[5,4] z) => {OUT} {{ q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
        " mask = MatMul(z, wm) m = Attention<q_num_heads=3, kv_num_heads=3>(q, k, v, mask)"
        " y = MatMul(m, wo) }",
        23,
        wq=(12, 12), wk=(12, 12), wv=(12, 12), wo=(12, 5), wm=(4, 5),
    )  # fmt: skip
    holds(made, {"MatMul:q": 3})


def test_the_attention_operator_of_four_axes():
    made = graph(
        f"{TOKENS} => {OUT} {{ {SEPARATE} q4 = Reshape(q, to) k4 = Reshape(k, to) v4 = Reshape(v, to)"
        " qt = Transpose<perm=[0,2,1,3]>(q4) kt = Transpose<perm=[0,2,1,3]>(k4)"
        " vt = Transpose<perm=[0,2,1,3]>(v4) m = Attention(qt, kt, vt) b = Transpose<perm=[0,2,1,3]>(m)"
        " j = Reshape(b, to2) y = MatMul(j, wo) }",
        23,
        **OWN, **SHAPES,
    )  # fmt: skip
    holds(made, {"MatMul:q0": 3})


def test_the_attention_operator_whose_heads_share_keys_stays():
    made = graph(
        f"{TOKENS} => {OUT} {{ q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
        " m = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v) y = MatMul(m, wo) }",
        23,
        wq=(12, 12), wk=(12, 6), wv=(12, 6), wo=(12, 5),
    )  # fmt: skip
    coupling = holds(made, {})
    assert any("shares keys" in skip.reason for skip in coupling.fixed)


def test_embeddings_that_are_added():
    made = graph(
        "(int64[n,t] ids, int64[n,t] kinds) => (float[n,a,b] y) { e = Gather(table, ids)"
        " f = Gather(few, kinds) s = Add(e, f) p = Add(s, bias) y = MatMul(p, w) }",
        table=(5, 8), few=(5, 8), bias=(8,), w=(8, 3),
    )  # fmt: skip
    coupling = holds(made, {"Gather:e": 8})
    assert [part.axis for part in coupling.widths[0].parts] == [1, 1, 0, 0]


CELLS = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_layers(cell, direction):
    count, more = 2 if direction == "bidirectional" else 1, ", linear_before_reset=1" * (cell == "GRU")
    rows = CELLS[cell] * 6
    made = graph(
        f"(float[t,n,5] x) => (float[t,n,b] y) {{ e = MatMul(x, we)"
        f' h = {cell}<hidden_size=6, direction="{direction}"{more}>(e, w, r, b)'
        " p = Transpose<perm=[0,2,1,3]>(h) j = Reshape(p, to) y = MatMul(j, wo) }",
        we=(5, 7), w=(count, rows, 7), r=(count, rows, 6), b=(count, 2 * rows), to=np.array([0, 0, -1]),
        wo=(count * 6, 3),
    )  # fmt: skip
    holds(made, {"MatMul:e": 7, f"{cell}:h": 6})


@pytest.mark.parametrize(("begin", "free"), [("hs", {"LSTM:h": 6, "Gemm:f": 6}), ("h0", {})])
def test_recurrent_layers_that_begin_somewhere(begin, free):
    """What is stored is masked; what is computed, here by a function that is not zero at zero, is not."""
    made = graph(
        "(float[t,2,5] x, float[2,4] z) => (float[a,k] y) { f = Gemm(z, wf) g = Sigmoid(f)"
        f" h0 = Unsqueeze(g, first) h, last, c = LSTM<hidden_size=6>(x, w, r, b, , {begin}, cs)"
        " s = Squeeze(last, first) y = MatMul(s, wo) }",
        w=(1, 24, 5), r=(1, 24, 6), b=(1, 48), hs=(1, 2, 6), cs=(1, 2, 6), wf=(4, 6), wo=(6, 3),
        first=np.array([0]),
    )  # fmt: skip
    coupling = holds(made, free)
    assert all("begins with it" in skip.reason for skip in coupling.fixed if skip.name == "LSTM:h")


def test_stacked_recurrent_layers():
    made = graph(
        "(float[t,n,5] x) => (float[t,n,b] y) { h = GRU<hidden_size=6>(x, w, r, b) s = Squeeze(h, first)"
        " g, last = GRU<hidden_size=4>(s, u, q) v = Squeeze(g, first) p = Squeeze(last, zeroth)"
        " m = Add(v, p) y = MatMul(m, wo) }",
        w=(1, 18, 5), r=(1, 18, 6), b=(1, 36), u=(1, 12, 6), q=(1, 12, 4), first=np.array([1]),
        zeroth=np.array([0]), wo=(4, 3),
    )  # fmt: skip
    holds(made, {"GRU:h": 6, "GRU:g": 4})


EINSUMS = {
    "layer": ("btc,cd->btd", {"Einsum:e": 6}),
    "transposing layer": ("btc,dc->tbd", {"Einsum:e": 6}),
}


@pytest.mark.parametrize("batch", ["2", "n"])
@pytest.mark.parametrize("form", EINSUMS)
def test_einsum(form, batch):
    equation, expected = EINSUMS[form]
    made = graph(
        f'(float[{batch},3,5] x) => {OUT} {{ m = MatMul(x, w0) e = Einsum<equation="{equation}">(m, w)'
        " r = Relu(e) y = MatMul(r, wo) }",
        w0=(5, 4), w=(4, 6) if form == "layer" else (6, 4), wo=(6, 3),
    )  # fmt: skip
    whole = prepare(made)
    coupling = couple(whole)
    assert widths(coupling) == {"MatMul:m": 4, **expected}
    for seed in range(3):
        agree(whole, coupling, some(coupling, seed), feeds_for(whole))


@pytest.mark.parametrize("side", SIDES)
def test_attention_as_einsum(side):
    """Heads and what lies inside them have axes of their own: both can go, ``side`` says which is meant."""
    each = " ".join(f'{q} = Einsum<equation="bth,hnd->btnd">(x, w{q})' for q in "qkv")
    made = graph(
        f'{TOKENS} => {OUT} {{ {each} s = Einsum<equation="bind,bjnd->bnij">(q, k) r = Mul(s, root)'
        ' p = Softmax<axis=-1>(r) m = Einsum<equation="bnij,bjnd->bind">(p, v)'
        ' y = Einsum<equation="bind,ndh->bih">(m, wo) }',
        wq=(12, 3, 4), wk=(12, 3, 4), wv=(12, 3, 4), wo=(3, 4, 5), root=ROOT,
    )  # fmt: skip
    coupling = holds(made, {"Einsum:q": 3, "Einsum:q#2": 4, "Einsum:v": 4}, side=side)
    meant = {"outer": [3], "inner": [4, 4]}
    assert [len(width) for width in coupling.widths if width.attended] == meant[side]
