"""Coupling through what networks for images are made of."""

from __future__ import annotations

import numpy as np
import pytest
from coupling_law import graph, holds

IMAGE = "(float[n,3,8,8] x)"
OUT = "(float[n,a,b,c] y)"
PADS = "pads=[1,1,1,1]"


def norm(name: str, count: int) -> dict[str, np.ndarray]:
    """Parameters of a batch normalization."""
    rng = np.random.default_rng(count)
    return {
        f"{name}g": rng.uniform(0.5, 1.5, count).astype(np.float32),
        f"{name}b": rng.normal(size=count).astype(np.float32),
        f"{name}m": rng.normal(size=count).astype(np.float32),
        f"{name}v": rng.uniform(0.5, 1.5, count).astype(np.float32),
    }


def test_a_chain_of_convolutions():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv<{PADS}>(x, w, wb) b = Relu(a) c = Conv(b, v) d = Sigmoid(c)"
        " e = MaxPool<kernel_shape=[2,2]>(d) y = Conv(e, u, ub) }",
        w=(8, 3, 3, 3), wb=(8,), v=(6, 8, 3, 3), u=(4, 6, 1, 1), ub=(4,),
    )  # fmt: skip
    coupling = holds(made, {"Conv:a": 8, "Conv:c": 6})
    assert [skip.name for skip in coupling.fixed] == ["Conv:y"]
    assert "output" in coupling.fixed[0].reason


def test_a_residual_addition_ties_what_is_added():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv<{PADS}>(x, w) r = Relu(a) b = Conv<{PADS}>(r, v, vb) s = Relu(b)"
        f" c = Conv<{PADS}>(s, u) t = Add(c, r) y = Conv(t, z) }}",
        w=(8, 3, 3, 3), v=(5, 8, 3, 3), vb=(5,), u=(8, 5, 3, 3), z=(2, 8, 1, 1),
    )  # fmt: skip
    coupling = holds(made, {"Conv:a": 8, "Conv:b": 5})
    roles = {(part.layer, part.role) for part in coupling.widths[0].parts}
    assert roles == {
        ("Conv:a", "made"), ("Conv:b", "read"), ("Conv:c", "made"), ("Conv:y", "read"),
    }  # fmt: skip


@pytest.mark.parametrize("opset", [11, 18])
def test_a_shortcut_without_weights_that_downsamples(opset):
    """Option A of ResNets for CIFAR: every other pixel, and zeros for the channels that are new."""
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv<{PADS}>(x, w) r = Relu(a)"
        " even = Slice(r, starts, ends, axes, steps) wide = Pad(even, around)"
        f" b = Conv<{PADS}, strides=[2,2]>(r, v) t = Add(b, wide) s = Relu(t) y = Conv(s, u) }}",
        opset,
        w=(4, 3, 3, 3), v=(8, 4, 3, 3), u=(2, 8, 1, 1),
        starts=np.array([0, 0]), ends=np.array([2**31, 2**31]), axes=np.array([2, 3]),
        steps=np.array([2, 2]), around=np.array([0, 2, 0, 0, 0, 2, 0, 0]),
    )  # fmt: skip
    holds(made, {"Conv:a": 4, "Conv:b": 4})


def test_padding_by_name_of_axes():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) wide = Pad(a, around, zero, axes)"
        " b = Conv(x, v) t = Add(b, wide) y = Conv(t, u) }",
        w=(4, 3, 3, 3), v=(7, 3, 3, 3), u=(2, 7, 1, 1),
        around=np.array([1, 2]), axes=np.array([-3]), zero=np.float32(0),
    )  # fmt: skip
    holds(made, {"Conv:a": 4, "Conv:b": 3})


@pytest.mark.parametrize("factor", [1, 2])
def test_a_depthwise_convolution_is_as_wide_as_what_it_reads(factor):
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) r = Relu(a) b = Conv<group=6, {PADS}>(r, v, vb)"
        " y = Conv(b, u) }",
        w=(6, 3, 1, 1), v=(6 * factor, 1, 3, 3), vb=(6 * factor,), u=(2, 6 * factor, 1, 1),
    )  # fmt: skip
    coupling = holds(made, {"Conv:a": 6})
    assert ("Conv:b", "factor") in {(part.layer, part.role) for part in coupling.widths[0].parts}


def test_groups_stay_of_one_size():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) r = Relu(a) b = Conv<group=3>(r, v, vb) y = Conv(b, u) }}",
        w=(12, 3, 1, 1), v=(6, 4, 3, 3), vb=(6,), u=(2, 6, 1, 1),
    )  # fmt: skip
    coupling = holds(made, {"Conv:a": 4, "Conv:b": 2})
    assert all((np.bincount(part.units)[1:] <= 3).all() for w in coupling.widths for part in w.parts)


def test_whole_groups_go_where_they_are_many():
    """As in ResNeXt and RegNet, whose groups are as wide as kernels like them."""
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) r = Relu(a) b = Conv<group=6>(r, v, vb) s = Relu(b)"
        " y = Conv(s, u) }",
        w=(12, 3, 1, 1), v=(18, 2, 3, 3), vb=(18,), u=(2, 18, 1, 1),
    )  # fmt: skip
    [width] = holds(made, {"Conv:a": 6}).widths
    assert width.breadth == 2


GROUPED = [
    (1, {"Conv:f": 8, "ConvTranspose:a": 12}),
    (2, {"Conv:f": 4, "ConvTranspose:a": 6}),
    (4, {"Conv:f": 4}),
]


@pytest.mark.parametrize(("group", "left"), GROUPED)
def test_a_transposed_convolution(group, left):
    made = graph(
        f"{IMAGE} => {OUT} {{ f = Conv(x, u) r = Relu(f)"
        f" a = ConvTranspose<group={group}, strides=[2,2]>(r, w, wb) y = Conv(a, v) }}",
        u=(8, 3, 1, 1), w=(8, 12 // group, 2, 2), wb=(12,), v=(2, 12, 1, 1),
    )  # fmt: skip
    holds(made, left)


def test_a_depthwise_transposed_convolution():
    made = graph(
        f"{IMAGE} => {OUT} {{ f = Conv(x, u) a = ConvTranspose<group=4>(f, w, wb) y = Conv(a, v) }}",
        u=(4, 3, 1, 1), w=(4, 2, 2, 2), wb=(8,), v=(2, 8, 1, 1),
    )  # fmt: skip
    holds(made, {"Conv:f": 4})


def test_batch_and_instance_normalization():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) b = BatchNormalization(a, pg, pb, pm, pv) r = Relu(b)"
        " c = Conv(r, v) d = InstanceNormalization(c, qg, qb) y = Conv(d, u) }",
        w=(5, 3, 3, 3), v=(6, 5, 3, 3), u=(2, 6, 1, 1), **norm("p", 5), **norm("q", 6),
    )  # fmt: skip
    coupling = holds(made, {"Conv:a": 5, "Conv:c": 6})
    assert {part.role for part in coupling.widths[0].parts} == {"made", "factor", "term", "read"}


def test_dense_blocks_read_all_before_them():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv<{PADS}>(x, w) b = Conv<{PADS}>(a, v) j = Concat<axis=1>(a, b, x)"
        f" r = BatchNormalization(j, pg, pb, pm, pv) c = Conv<{PADS}>(r, u) k = Concat<axis=-3>(j, c)"
        " y = Conv(k, z) }",
        w=(4, 3, 3, 3), v=(5, 4, 3, 3), u=(6, 12, 3, 3), z=(2, 18, 1, 1), **norm("p", 12),
    )  # fmt: skip
    holds(made, {"Conv:a": 4, "Conv:b": 5, "Conv:c": 6})


SPLITS = {
    (11, "default"): ("Split<axis=1>(c)", {}),
    (11, "uneven"): ("Split<axis=1, split=[2,4]>(c)", {}),
    (18, "equal"): ("Split<axis=1, num_outputs=2>(c)", {}),
    (18, "uneven"): ("Split<axis=1>(c, sizes)", {"sizes": np.array([2, 4])}),
}


@pytest.mark.parametrize("form", SPLITS)
def test_parts_of_a_split_go_their_own_ways(form):
    split, more = SPLITS[form]
    first, second = (2, 4) if form[1] == "uneven" else (3, 3)
    made = graph(
        f"{IMAGE} => {OUT} {{ c = Conv(x, w, wb) p, q = {split} r = Conv<{PADS}>(q, v) s = Relu(p)"
        " t = Concat<axis=1>(r, s) y = Conv(t, u) }",
        form[0],
        w=(6, 3, 1, 1), wb=(6,), v=(4, second, 3, 3), u=(2, 4 + first, 1, 1), **more,
    )  # fmt: skip
    holds(made, {"Conv:c": second, "Conv:c#2": first, "Conv:r": 4})


def test_no_part_of_a_split_becomes_empty():
    """Both parts are read by the same layer alone, yet each has to keep something."""
    made = graph(
        f"{IMAGE} => {OUT} {{ c = Conv(x, w) p, q = Split<axis=1, num_outputs=2>(c) r = Relu(p)"
        " s = MaxPool<kernel_shape=[1,1]>(q) t = Concat<axis=1>(s, r) y = Conv(t, u) }",
        w=(8, 3, 1, 1), u=(2, 8, 1, 1),
    )  # fmt: skip
    holds(made, {"Conv:c": 4, "Conv:c#2": 4})


def test_a_gated_product_ties_both_halves():
    made = graph(
        f"{IMAGE} => {OUT} {{ c = Conv(x, w, wb) p, q = Split<axis=1, num_outputs=2>(c) s = Sigmoid(q)"
        " t = Mul(p, s) y = Conv(t, u) }",
        w=(8, 3, 1, 1), wb=(8,), u=(2, 4, 1, 1),
    )  # fmt: skip
    holds(made, {"Conv:c": 4})


@pytest.mark.parametrize("opset", [11, 18])
def test_squeeze_and_excite(opset):
    mean = "ReduceMean<axes=[2,3], keepdims=1>(r)" if opset == 11 else "ReduceMean<keepdims=1>(r, over)"
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) r = Relu(a) m = {mean} p = Conv(m, d, db) q = Relu(p)"
        " z = Conv(q, e, eb) g = HardSigmoid(z) t = Mul(r, g) y = Conv(t, u) }",
        opset,
        w=(8, 3, 3, 3), d=(4, 8, 1, 1), db=(4,), e=(8, 4, 1, 1), eb=(8,), u=(2, 8, 1, 1),
        **({} if opset == 11 else {"over": np.array([2, 3])}),
    )  # fmt: skip
    holds(made, {"Conv:a": 8, "Conv:p": 4})


HEADS = {
    "flatten, rows of outputs": ("Flatten(r)", "Gemm<transB=1>(f, v, vb)", (5, 6 * 9)),
    "flatten, columns of outputs": ("Flatten(r)", "Gemm(f, v, vb)", (6 * 9, 5)),
    "reshape": ("Reshape(r, to)", "MatMul(f, v)", (6 * 9, 5)),
    "reshape by zero": ("Reshape(r, zero)", "MatMul(f, v)", (6 * 9, 5)),
}


@pytest.mark.parametrize("form", HEADS)
def test_a_flattened_image(form):
    flat, head, shape = HEADS[form]
    made = graph(
        f"(float[n,3,5,5] x) => (float[n,k] y) {{ a = Conv(x, w) r = Relu(a) f = {flat} h = {head}"
        " s = Relu(h) y = MatMul(s, u) }",
        w=(6, 3, 3, 3), v=shape, vb=(5,), u=(5, 2), to=np.array([-1, 54]), zero=np.array([0, -1]),
    )  # fmt: skip
    holds(made, {"Conv:a": 6, head.split("<")[0].split("(")[0] + ":h": 5})


def test_pooled_and_squeezed():
    made = graph(
        "(float[n,3,5,5] x) => (float[n,k] y) { a = Conv(x, w) g = GlobalAveragePool(a)"
        " s = Squeeze(g, axes) m = ReduceMax<keepdims=0>(a, axes) t = Add(s, m) y = Gemm(t, v) }",
        w=(6, 3, 3, 3), v=(6, 2), axes=np.array([2, 3]),
    )  # fmt: skip
    holds(made, {"Conv:a": 6})


def test_pooled_and_squeezed_by_attributes():
    made = graph(
        "(float[n,3,5,5] x) => (float[n,k] y) { a = Conv(x, w) g = GlobalMaxPool(a)"
        " s = Squeeze<axes=[2,3]>(g) m = ReduceMin<axes=[-2,-1], keepdims=0>(a) t = Add(s, m)"
        " y = Gemm(t, v) }",
        11,
        w=(6, 3, 3, 3), v=(6, 2),
    )  # fmt: skip
    holds(made, {"Conv:a": 6})


@pytest.mark.parametrize("opset", [11, 18])
def test_pooled_and_squeezed_without_axes(opset):
    """Where one channel is left, it is not squeezed with the rest."""
    made = graph(
        "(float[2,3,5,5] x) => (float[2,k] y) { a = Conv(x, w) g = GlobalMaxPool(a) s = Squeeze(g)"
        " y = Gemm<transB=1>(s, v, b) }",
        opset,
        w=(6, 3, 3, 3), v=(2, 6), b=(2,),
    )  # fmt: skip
    holds(made, {"Conv:a": 6})


def test_a_zero_in_a_shape_that_stands_for_another_axis():
    made = graph(
        "(float[8,3] x) => (float[1,8,k] y) { a = MatMul(x, w) r = Reshape(a, to) y = MatMul(r, v) }",
        w=(3, 8), v=(8, 4), to=np.array([1, 0, 8]),
    )  # fmt: skip
    holds(made, {"MatMul:a": 8})


def test_an_operand_that_only_names_a_type():
    made = graph(
        "(float[n,3] x, float[1,2,3,4,5] like) => (float[n,k] y) { a = Gemm(x, w) r = CastLike(a, like)"
        " y = Gemm(r, v) }",
        w=(3, 6), v=(6, 2),
    )  # fmt: skip
    holds(made, {"Gemm:a": 6})


def test_channels_last_and_back():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(a) m = MatMul(t, v)"
        " s = Add(m, vb) r = Relu(s) b = Transpose<perm=[0,3,1,2]>(r) y = Conv(b, u) }",
        w=(6, 3, 3, 3), v=(6, 5), vb=(5,), u=(2, 5, 1, 1),
    )  # fmt: skip
    holds(made, {"Conv:a": 6, "MatMul:m": 5})


def test_shuffled_groups():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) r = Reshape(a, apart) t = Transpose<perm=[0,2,1,3,4]>(r)"
        " s = Reshape(t, joined) b = Conv<group=2>(s, v) y = Conv(b, u) }",
        w=(8, 3, 1, 1), v=(6, 4, 3, 3), u=(2, 6, 1, 1),
        apart=np.array([0, 2, 4, 8, 8]), joined=np.array([-1, 8, 8, 8]),
    )  # fmt: skip
    holds(made, {"Conv:a": 2, "Conv:b": 3})


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("bounds", ["relu6", "high", "above zero"])
def test_clipped_channels(opset, bounds):
    low, high = {"relu6": (0, 6), "high": (-1, 0.5), "above zero": (0.5, 6)}[bounds]
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) r = Clip(a, low, high) y = Conv(r, u) }}",
        opset,
        w=(6, 3, 3, 3), u=(2, 6, 1, 1), low=np.float32(low), high=np.float32(high),
    )  # fmt: skip
    holds(made, {"Conv:a": 6})


@pytest.mark.parametrize("slope", [(6, 1, 1), (1,)])
def test_slopes_of_each_channel_or_of_all(slope):
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) r = PRelu(a, s) y = Conv(r, u) }}",
        w=(6, 3, 3, 3), u=(2, 6, 1, 1), s=slope,
    )  # fmt: skip
    holds(made, {"Conv:a": 6})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_channels_that_become_pixels_and_back(mode):
    made = graph(
        f'{IMAGE} => {OUT} {{ a = Conv(x, w) p = DepthToSpace<blocksize=2, mode="{mode}">(a) b = Conv(p, v)'
        " d = SpaceToDepth<blocksize=2>(b) y = Conv(d, u) }",
        w=(12, 3, 1, 1), v=(5, 3, 3, 3), u=(2, 20, 1, 1),
    )  # fmt: skip
    # 16 - 2 pixels a side: an even number again.
    holds(made, {"Conv:a": 3, "Conv:b": 5})


RESIZES = {
    "scales": "Resize<mode=\"nearest\">(a, , scales)",
    "sizes": "Resize<mode=\"nearest\">(a, , , sizes)",
    "sizes of some axes": "Resize<mode=\"nearest\", axes=[2,3]>(a, , , places)",
}  # fmt: skip


@pytest.mark.parametrize("form", RESIZES)
def test_resized_images(form):
    made = graph(
        f"(float[2,3,8,8] x) => {OUT} {{ a = Conv(x, w) r = {RESIZES[form]} y = Conv(r, u) }}",
        w=(6, 3, 3, 3), u=(2, 6, 1, 1), scales=np.float32([1, 1, 2, 2]), sizes=np.array([2, 6, 12, 12]),
        places=np.array([12, 12]),
    )  # fmt: skip
    holds(made, {"Conv:a": 6})


@pytest.mark.parametrize("opset", [11, 18])
def test_channels_taken_by_constant_indices_or_slices(opset):
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) g = Gather<axis=1>(a, some) s = Slice(a, from, to, one)"
        " t = Add(g, s) j = Concat<axis=1>(t, a) y = Conv(j, u) }",
        opset,
        w=(7, 3, 3, 3), u=(2, 10, 1, 1), some=np.array([6, -2, 0]), **{"from": np.array([2])},
        to=np.array([-2]), one=np.array([1]),
    )  # fmt: skip
    # 2 meets 6, 3 meets 5, 4 meets 0; 1 stands alone.
    holds(made, {"Conv:a": 3, "Conv:a#2": 1})


def test_a_shared_weight_is_cut_once_for_all_that_read_it():
    made = graph(
        f"{IMAGE} => {OUT} {{ a = Conv(x, w) b = Conv(a, v) c = Conv(b, v) d = Relu(c) e = Conv(d, v)"
        " y = Conv(e, u) }",
        w=(6, 3, 1, 1), v=(6, 6, 1, 1), u=(2, 6, 1, 1),
    )  # fmt: skip
    holds(made, {"Conv:a": 6})


def test_several_inputs_and_outputs():
    made = graph(
        "(float[n,3,8,8] x, float[n,4,8,8] z) => (float[n,a,b,c] y, float[n,k] label, float[n,6,8,8] seen) {"
        " a = Conv(x, w) b = Conv(z, v) t = Add(a, b) y = Conv(t, u) seen = Conv(x, s)"
        " g = GlobalAveragePool(seen) f = Flatten(g) h = Gemm(f, m, mb) r = Relu(h) label = Gemm(r, o) }",
        w=(5, 3, 1, 1), v=(5, 4, 1, 1), u=(2, 5, 1, 1), s=(6, 3, 1, 1), m=(6, 7), mb=(7,), o=(7, 3),
    )  # fmt: skip
    coupling = holds(made, {"Conv:a": 5, "Gemm:h": 7})
    assert {skip.name for skip in coupling.fixed} == {"Conv:y", "Conv:seen", "Gemm:label"}
