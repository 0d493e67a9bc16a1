"""Each scheme turns a weight into codes and what is needed to decode them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import ml_dtypes
import numpy as np

from hasten.core.data import Array
from hasten.methods._stored.solve import Goal, linear_codes
from hasten.methods._stored.weights import Unfit, Weight
from hasten.numerics import clusters, floats, nvfp4
from hasten.numerics.affine import Grid
from hasten.numerics.moments import mean_variance
from hasten.numerics.powers import Midpoint, powers

Scheme: TypeAlias = Literal[
    "linear",
    "mean_variance",
    "log2",
    "clusters",
    "float8_e4m3",
    "float8_e5m2",
    "float4",
    "mxfp8",
    "mxfp4",
    "nvfp4",
]

_FORMATS = {"float8_e4m3": "e4m3", "float8_e5m2": "e5m2", "float4": "e2m1", "mxfp8": "e4m3", "mxfp4": "e2m1"}


@dataclass(frozen=True)
class Request:
    """What a scheme is asked for; see ``compress_weights.Params``."""

    scheme: Scheme
    bits: int
    group: int | None
    symmetric: bool
    sigmas: float | None
    midpoint: Midpoint


@dataclass(frozen=True)
class Stored:
    """A weight as codes: lookup[code], or the code itself, less zero, times scale, plus mean.

    codes: as the weight's matrix; integers or small floats. bits: of a code. lookup: what codes stand for,
    indexed as ONNX's Gather does, from the end for negative ones. zero, scale, mean: float32 or the codes'
    type, of shape () or (channels,), or with ``group`` of the matrix's rank. tensor_scale: float32, what
    scales in float8 are multiplied by. exponents: the scale as E8M0 bytes. what: the scheme in words.
    """

    codes: Array
    bits: int
    what: str
    lookup: Array | None = None
    zero: Array | None = None
    scale: Array | None = None
    tensor_scale: Array | None = None
    exponents: Array | None = None
    mean: Array | None = None
    group: int | None = None


def store(weight: Weight, request: Request, goal: Goal) -> Stored:
    """Quantize a weight; raises Unfit where the scheme does not apply to it. goal: of linear codes."""
    if request.scheme == "linear":
        return _linear(weight, request, goal)
    if request.scheme == "mean_variance":
        shifted = mean_variance(weight.matrix, Grid(request.bits), weight.axis, request.sigmas)
        codes, scale = shifted.quantize(weight.matrix), shifted.quantizer.scale
        what = f"{request.bits}-bit integers, a mean and a scale for each channel"
        return Stored(codes, request.bits, what, scale=scale, mean=shifted.mean)
    if request.scheme == "log2":
        power = powers(weight.matrix, request.bits, weight.axis, request.midpoint)
        what = f"{request.bits}-bit signed powers of two, the largest one for each channel"
        codes = power.quantize(weight.matrix)
        return Stored(codes, request.bits, what, lookup=power.levels, scale=power.scale)
    if request.scheme == "clusters":
        book = clusters.codebook(weight.matrix, request.bits)
        bits = max(2, int(len(book.values) - 1).bit_length())
        what = f"{bits}-bit indices of {len(book.values)} shared values"
        return Stored(book.quantize(weight.matrix), bits, what, lookup=book.values)
    if request.scheme == "nvfp4":
        return _nvfp4(weight)
    return _float(weight, request)


def _linear(weight: Weight, request: Request, goal: Goal) -> Stored:
    _, group, scope = _blocks(weight, request.group)
    made = linear_codes(weight, Grid(request.bits, signed=request.symmetric), group, goal)
    kind = "a scale" if request.symmetric else "a scale and a zero point"
    what = f"{request.bits}-bit integers, {kind} for each {scope}{goal.what}"
    return Stored(made.codes, request.bits, what, zero=made.zero, scale=made.scale, group=group)


def _float(weight: Weight, request: Request) -> Stored:
    format_ = floats.FORMATS[_FORMATS[request.scheme]]
    if request.scheme.startswith("mxfp"):
        block = floats.MX_BLOCK
        _check_depth(weight, block)
        shared = floats.microscaled(weight.matrix, format_.name, 1 - weight.axis)
        what = f"{format_.name} floats of {format_.bits} bits, a power of two for each {block} weights"
        codes = _patterns(shared.quantize(weight.matrix), format_)
        return Stored(
            codes,
            format_.bits,
            what,
            lookup=_lookup(format_),
            exponents=shared.shared_exponents,
            group=block,
        )
    axis, group, scope = _blocks(weight, request.group)
    quantizer = floats.scaled(weight.matrix, format_.name, axis, group)
    codes = _patterns(quantizer.quantize(weight.matrix), format_)
    what = f"{format_.name} floats of {format_.bits} bits, a scale for each {scope}"
    return Stored(codes, format_.bits, what, lookup=_lookup(format_), scale=quantizer.scale, group=group)


def _nvfp4(weight: Weight) -> Stored:
    _check_depth(weight, nvfp4.BLOCK)
    levels = nvfp4.two_levels(weight.matrix, 1 - weight.axis)
    quantizer = levels.quantizer
    codes = _patterns(quantizer.quantize(weight.matrix), quantizer.format)
    bits = quantizer.format.bits
    what = f"e2m1 floats of {bits} bits, an e4m3 scale for each {nvfp4.BLOCK} weights and one for all"
    return Stored(
        codes,
        bits,
        what,
        lookup=_lookup(quantizer.format),
        scale=levels.blocks,
        tensor_scale=levels.tensor,
        group=nvfp4.BLOCK,
    )


def _check_depth(weight: Weight, block: int) -> None:
    if weight.depth % block:
        raise Unfit(f"the {weight.depth} weights of a channel do not divide into blocks of {block}")


def _patterns(elements: Array, format_: floats.Format) -> Array:
    """Elements as they are stored: ONNX Runtime casts floats of 8 bits, and looks 4 bits up."""
    return elements if format_.bits == 8 else elements.view(np.uint8)


def _lookup(format_: floats.Format) -> Array | None:
    return None if format_.bits == 8 else format_.table


def _blocks(weight: Weight, group: int | None) -> tuple[int, int | None, str]:
    """The axis and the block size of scales, and in words whose they are."""
    if group is None or group >= weight.depth:
        return weight.axis, None, "channel"
    if weight.depth % group:
        return weight.axis, None, f"channel, whose {weight.depth} weights {group} does not divide"
    return 1 - weight.axis, group, f"{group} weights"


def narrow(codes: Array, bits: int) -> Array:
    """Integer codes in the smallest type that both runtimes load: 4 or 8 bits."""
    if codes.dtype.kind not in "iu" or bits > 4:
        return codes
    return codes.astype(ml_dtypes.int4 if codes.dtype.kind == "i" else ml_dtypes.uint4)
