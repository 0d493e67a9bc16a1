"""ONNX Runtime's own attention (com.microsoft): Attention, MultiHeadAttention.

Shapes: batch B, query length L, key length T with the past, heads N, head size H.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.contrib_fused import DOMAIN


@operator("Attention", domain=DOMAIN)
def attention(call: Call) -> Function:
    """Self-attention with its projection: input (B, L, D), weights (D, all heads of q, k, v)."""
    heads, causal = call.integer("num_heads"), bool(call.integer("unidirectional", 0))
    sizes = call.integers("qkv_hidden_sizes", ())
    if call.integer("do_rotary", 0) or call.integer("past_present_share_buffer", 0):
        raise call.wrong("rotates positions or shares the buffer of its past, which the bridge does not")
    scale, hidden = _scale(call), call.real("mask_filter_value", -10000.0)

    def run(x: Tensor, weights: Tensor, bias: Tensor | None = None, *rest: Tensor | None) -> object:
        mask, past, added = (*rest, None, None, None)[:3]
        projected = functional.linear(x, weights.t(), bias)
        q, k, v = (_split(p, heads) for p in torch.split(projected, list(sizes) or weights.shape[1] // 3, -1))
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        shift = _bias(q, k, (mask, added), hidden, causal)
        found = functional.scaled_dot_product_attention(q, k, v, shift, scale=scale)
        return (_merged(found), torch.stack((k, v))) if any(call.wanted[1:]) else _merged(found)

    return run


@operator("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(call: Call) -> Function:
    """Attention of projected queries (B, L, N·H) to keys and values, which may come split into heads."""
    heads, causal = call.integer("num_heads"), bool(call.integer("unidirectional", 0))
    scale, hidden = _scale(call), call.real("mask_filter_value", -10000.0)
    if call.has(8) or call.has(9) or any(call.wanted[3:]):
        raise call.wrong("keeps its past in one buffer or returns its scores, which the bridge does not")

    def run(query: Tensor, *rest: Tensor | None) -> object:
        key, value, bias, mask, added, past_k, past_v = (*rest, *(None,) * 7)[:7]
        q, k, v = _heads(query, key, value, heads)
        if bias is not None:
            q, k, v = _biased(q, k, v, bias)
        if past_k is not None and past_v is not None:
            k, v = torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
        shift = _bias(q, k, (mask, added), hidden, causal)
        found = functional.scaled_dot_product_attention(q, k, v, shift, scale=scale)
        return (_merged(found), k, v) if any(call.wanted[1:]) else _merged(found)

    return run


def _scale(call: Call) -> float | None:
    """The factor of the scores; None for one over the root of the head size."""
    return call.real("scale", 0.0) or None


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, L, N·H) to (B, N, L, H)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _merged(x: Tensor) -> Tensor:
    """(B, N, L, H) to (B, L, N·H)."""
    return x.transpose(1, 2).flatten(2)


def _heads(
    query: Tensor, key: Tensor | None, value: Tensor | None, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as (B, N, length, H), from every form they come in."""
    if query.dim() == 5:  # (B, L, N, 3, H)
        q, k, v = query.permute(3, 0, 2, 1, 4).unbind(0)
        return q, k, v
    if key is None:
        raise ValueError("attention without keys takes queries of the shape (B, L, N, 3, H)")
    if key.dim() == 5:  # (B, T, N, 2, H)
        k, v = key.permute(3, 0, 2, 1, 4).unbind(0)
        return _split(query, heads), k, v
    assert value is not None
    k, v = (x if x.dim() == 4 else _split(x, heads) for x in (key, value))
    return _split(query, heads), k, v


def _biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each with its part of the bias (of the projections, which came before) added."""
    widths = [x.shape[1] * x.shape[3] for x in (q, k, v)]
    parts = (
        b.reshape(x.shape[1], 1, x.shape[3])
        for x, b in zip((q, k, v), torch.split(bias, widths), strict=True)
    )
    q, k, v = (x + b for x, b in zip((q, k, v), parts, strict=True))
    return q, k, v


def _bias(
    q: Tensor, k: Tensor, given: tuple[Tensor | None, Tensor | None], hidden: float, causal: bool
) -> Tensor | None:
    """What is added to the scores: the given bias, and ``hidden`` where mask or time hides a key."""
    mask, added = given
    shown = None if mask is None else _shown(mask, q.shape[0], k.shape[2])
    if causal:
        length, keys = q.shape[2], k.shape[2]
        past = torch.ones(length, keys, dtype=torch.bool, device=q.device).tril(keys - length)
        shown = past if shown is None else shown & past
    if shown is None:
        return added
    bias = torch.zeros(shown.shape, dtype=q.dtype, device=q.device).masked_fill(~shown, hidden)
    return bias if added is None else bias + added


def _shown(mask: Tensor, batch: int, keys: int) -> Tensor:
    """Which keys a mask shows, to broadcast to (B, N, L, T).

    A mask is a number of keys per row (B), ends and then starts (2 B), or a truth value per key (B, T), per
    query and key (B, L, T), or (B, 1, L, T).
    """
    if mask.dim() == 1:
        if mask.shape[0] not in (batch, 2 * batch):
            raise ValueError(f"a mask of {mask.shape[0]} numbers fits no batch of {batch}")
        places = torch.arange(keys, device=mask.device)
        shown = places < mask[:batch, None]
        shown = shown & (places >= mask[batch:, None]) if mask.shape[0] == 2 * batch else shown
        return shown[:, None, None, :]
    shown = mask != 0
    if mask.dim() == 2:
        return shown[:, None, None, :]
    return shown[:, None] if mask.dim() == 3 else shown
