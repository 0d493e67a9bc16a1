"""ONNX Runtime's own operators (com.microsoft): layers that its optimizer fused."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.delegate import delegate
from hasten.bridge.operator import Call, Function, operator

DOMAIN = "com.microsoft"


@operator("FusedMatMul", domain=DOMAIN)
def fused_matmul(call: Call) -> Function:
    """Alpha · A' · B', where the last axes, or the first against the others, may be exchanged."""
    alpha = call.real("alpha", 1.0)
    turns = [(call.integer(f"transBatch{m}", 0), call.integer(f"trans{m}", 0)) for m in "AB"]

    def run(a: Tensor, b: Tensor) -> Tensor:
        product = _turned(a, *turns[0]) @ _turned(b, *turns[1])
        return product if alpha == 1.0 else alpha * product

    return run


def _turned(x: Tensor, batch: int, last: int) -> Tensor:
    if x.dim() < 2:
        return x
    x = x.movedim(0, -2) if batch else x
    return x.transpose(-1, -2) if last else x


@operator("Gelu", domain=DOMAIN)
def gelu(call: Call) -> Function:
    """X · Φ(x)."""
    return functional.gelu


@operator("BiasGelu", domain=DOMAIN)
def bias_gelu(call: Call) -> Function:
    """Gelu of x + bias."""
    return lambda x, bias: functional.gelu(x + bias)


@operator("FastGelu", domain=DOMAIN)
def fast_gelu(call: Call) -> Function:
    """Gelu by tanh, of x + bias where there is one."""
    return lambda x, bias=None: functional.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=DOMAIN)
def quick_gelu(call: Call) -> Function:
    """X · sigmoid(alpha · x)."""
    alpha = call.real("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("SkipLayerNormalization", domain=DOMAIN)
def skip_layer_normalization(call: Call) -> Function:
    """Layer normalization of x + skip + bias; that sum as the fourth output."""
    epsilon = call.real("epsilon", 1e-5)
    return _skip(
        call,
        lambda x, gamma, beta: functional.layer_norm(x, gamma.shape, gamma, beta, epsilon),
        lambda x: (x.mean(-1, keepdim=True), (x.var(-1, keepdim=True, correction=0) + epsilon).rsqrt()),
        has_beta=True,
    )


@operator("SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_simplified_layer_normalization(call: Call) -> Function:
    """Root-mean-square normalization of x + skip + bias; that sum as the fourth output."""
    epsilon = call.real("epsilon", 1e-5)
    return _skip(
        call,
        lambda x, gamma, _: functional.rms_norm(x, gamma.shape, gamma, epsilon),
        lambda x: (None, (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()),
        has_beta=False,
    )


def _skip(
    call: Call,
    normalize: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    statistics: Callable[[Tensor], tuple[Tensor | None, Tensor]],
    has_beta: bool,
) -> Function:
    with_statistics, with_more = any(call.wanted[1:3]), any(call.wanted[1:])

    def run(x: Tensor, skip: Tensor, gamma: Tensor, *rest: Tensor | None) -> object:
        beta, bias = (*rest, None, None)[:2] if has_beta else (None, (*rest, None)[0])
        total = x + skip if bias is None else x + skip + bias
        found = normalize(total, gamma, beta)
        if not with_more:
            return found
        return (found, *(statistics(total) if with_statistics else (None, None)), total)

    return run


@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain=DOMAIN)
def simplified_layer_normalization(call: Call) -> Function:
    """Root-mean-square normalization over the axes from ``axis`` on; one over the root as second output."""
    axis, epsilon = call.integer("axis", -1), call.real("epsilon", 1e-5)
    with_root = any(call.wanted[1:])

    def run(x: Tensor, scale: Tensor) -> object:
        shape = x.shape[axis % x.dim() :]
        found = functional.rms_norm(x, shape, scale.reshape(shape), epsilon)
        if not with_root:
            return found
        over = tuple(range(axis % x.dim(), x.dim()))
        return found, (x.square().mean(over, keepdim=True) + epsilon).rsqrt()

    return run


@operator("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_normalization(call: Call) -> Function:
    """Layer normalization of the sum of word, position and segment embeddings; then counts of words."""
    epsilon = call.real("epsilon", 1e-12)
    more = any(call.wanted[1:])

    def run(words: Tensor, segments: Tensor | None, *rest: Tensor | None) -> object:
        table, positions, segment_table, gamma, beta, mask, places = (*rest, None, None)[:7]
        assert table is not None
        assert positions is not None
        assert gamma is not None
        by_place = positions[: words.shape[1]] if places is None else functional.embedding(places, positions)
        total = functional.embedding(words, table) + by_place
        if segments is not None and segment_table is not None:
            total = total + functional.embedding(segments, segment_table)
        found = functional.layer_norm(total, gamma.shape, gamma, beta, epsilon)
        if not more:
            return found
        counts = torch.zeros_like(words[:, 0]) if mask is None else (mask == 1).sum(1)
        return found, counts.to(torch.int32), total

    return run


def _activation(call: Call, numbers: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    """The activation that a fused layer names, with its parameters in order."""
    name = call.text("activation", "")
    if name == "Clip":
        low, high = numbers
        return lambda x: torch.clamp(x, low, high)
    if name == "HardSigmoid":
        alpha, beta = numbers
        return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)
    if name == "LeakyRelu":
        slope = numbers[0] if numbers else 0.01
        return lambda x: functional.leaky_relu(x, slope)
    plain: dict[str, Callable[[Tensor], Tensor]] = {
        "": lambda x: x,
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
    }
    if name not in plain:
        raise call.wrong(f"has an unknown activation {name!r}")
    return plain[name]


@operator("FusedConv", domain=DOMAIN)
def fused_conv(call: Call) -> Function:
    """Convolution, a sum with a fourth input, and an activation."""
    conv = delegate(call, "Conv", 11, (0, 1, 2))
    activate = _activation(call, call.reals("activation_params", ()))

    def run(x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        found = conv(x, w, b)
        return activate(found if z is None else found + z)

    return run


@operator("FusedGemm", domain=DOMAIN)
def fused_gemm(call: Call) -> Function:
    """Gemm and an activation."""
    gemm = delegate(call, "Gemm", 13, (0, 1, 2))
    given = [f"activation_{n}" for n in ("alpha", "beta") if call.given(f"activation_{n}")]
    activate = _activation(call, tuple(call.real(n) for n in given))
    return lambda a, b, c=None: activate(gemm(a, b, c))


@operator("NhwcMaxPool", domain=DOMAIN)
def nhwc_max_pool(call: Call) -> Function:
    """MaxPool with the channels last."""
    pool = delegate(call, "MaxPool", 12, (0,))
    return lambda x: pool(x.movedim(-1, 1)).movedim(1, -1)
