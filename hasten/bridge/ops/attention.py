"""Attention and its masks: Attention, FlexAttention, RotaryEmbedding."""

from __future__ import annotations

import math
from typing import NamedTuple

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.dtypes import carrier
from hasten.bridge.operator import Call, Function, Scope, operator


class _Options(NamedTuple):
    """The attributes of Attention; absent precision is None, an unbounded window -1."""

    causal: bool
    scale: float | None
    softcap: float
    precision: torch.dtype | None
    query_heads: int
    key_heads: int
    mode: int
    left: int
    right: int

    @staticmethod
    def of(call: Call) -> _Options:
        precision = call.integer("softmax_precision", 0)
        return _Options(
            causal=bool(call.integer("is_causal", 0)),
            scale=call.real("scale") if call.given("scale") else None,
            softcap=call.real("softcap", 0.0),
            precision=carrier(ir.DataType(precision)) if precision else None,
            query_heads=call.integer("q_num_heads", 0),
            key_heads=call.integer("kv_num_heads", 0),
            mode=call.integer("qk_matmul_output_mode", 0),
            left=call.integer("left_window_size", -1),
            right=call.integer("right_window_size", -1),
        )


@operator("Attention")
def attention(call: Call) -> Function:
    """softmax(scale · Q Kᵀ + bias) V, with masks, grouped heads, a cache and a soft cap (ONNX, Attention)."""
    options = _Options.of(call)
    scores_wanted = len(call.wanted) > 3 and call.wanted[3]
    # Torch's kernel takes the softmax of halves in float32, and has neither cap nor scores to give.
    fused = not scores_wanted and not options.softcap and options.precision in (None, torch.float32)

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        past_key: Tensor | None = None,
        past_value: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        packed = q.dim() == 3
        if packed:
            q = _split(q, options.query_heads)
            k, v = _split(k, options.key_heads), _split(v, options.key_heads)
        past = 0
        if past_key is not None and past_value is not None:
            past = past_key.shape[2]
            k, v = torch.cat((past_key, k), dim=2), torch.cat((past_value, v), dim=2)
        square_causal = options.causal and mask is None and lengths is None and past == 0
        plain = square_causal and options.left < 0 and options.right < 0 and fused
        bias = None if plain else _bias(q, k.shape[2], mask, _Frame(past, lengths), options)
        scores = None
        if fused:
            y = functional.scaled_dot_product_attention(
                q, k, v, bias, is_causal=plain, scale=options.scale, enable_gqa=q.shape[1] != k.shape[1]
            )
        else:
            y, scores = _explicit(q, k, v, bias, options)
        return _merge(y) if packed else y, k, v, scores

    return run


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, length, heads · size) to (batch, heads, length, size)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """(batch, heads, length, size) to (batch, length, heads · size)."""
    return x.transpose(1, 2).flatten(2)


class _Frame(NamedTuple):
    """Where the queries stand among the keys: after ``past`` cached ones, or at the end of ``lengths``."""

    past: int
    lengths: Tensor | None

    def offset(self, queries: int) -> Tensor | int:
        if self.past or self.lengths is None:
            return self.past
        return (self.lengths - queries).reshape(-1, 1, 1, 1)


def _bias(q: Tensor, keys: int, mask: Tensor | None, frame: _Frame, options: _Options) -> Tensor | None:
    """What is added to the scores: None, a mask of booleans, or numbers, broadcast to four axes."""
    allowed = _allowed(q, keys, frame, options)
    if mask is None:
        return allowed
    mask = mask.reshape(*(1,) * (4 - mask.dim()), *mask.shape)
    if mask.shape[-1] < keys:
        rest = (0, keys - mask.shape[-1])
        if mask.dtype == torch.bool:
            mask = functional.pad(mask, rest, value=False)
        else:
            mask = functional.pad(mask, rest, value=-math.inf)
    if mask.dtype == torch.bool:
        return mask if allowed is None else mask & allowed
    mask = mask.to(q.dtype)
    return mask if allowed is None else mask.masked_fill(~allowed, -math.inf)


def _allowed(q: Tensor, keys: int, frame: _Frame, options: _Options) -> Tensor | None:
    """Which key each query may see by causality, window and length; None for all.

    Query i stands at p = i + offset and sees key j where p - left <= j <= p + right; causality is right = 0.
    """
    right = 0 if options.causal else options.right
    key = torch.arange(keys, device=q.device)
    seen: list[Tensor] = []
    if right >= 0 or options.left >= 0:
        place = torch.arange(q.shape[2], device=q.device)[:, None] + frame.offset(q.shape[2])
        if right >= 0:
            seen.append(key <= place + right)
        if options.left >= 0:
            seen.append(key >= place - options.left)
    if frame.lengths is not None:
        seen.append(key < frame.lengths.reshape(-1, 1, 1, 1))
    if not seen:
        return None
    together = seen[0]
    for one in seen[1:]:
        together = together & one
    return together.reshape(*(1,) * (4 - together.dim()), *together.shape)


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, options: _Options
) -> tuple[Tensor, Tensor]:
    """The same formula step by step; returns the output and the scores of the stage that ``mode`` names."""
    if q.shape[1] != k.shape[1]:
        share = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
    root = math.sqrt(options.scale if options.scale is not None else 1 / math.sqrt(q.shape[-1]))
    stages = [(q * root) @ (k * root).mT]
    stages.append(options.softcap * torch.tanh(stages[0] / options.softcap) if options.softcap else stages[0])
    stages.append(_add(stages[1], bias))
    wide = stages[2] if options.precision is None else stages[2].to(options.precision)
    stages.append(_safe_softmax(wide, bias).to(q.dtype))
    return stages[3] @ v, stages[options.mode]


def _add(scores: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return scores
    return scores.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else scores + bias


def _safe_softmax(scores: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax over keys; a query that may see none gets zeros, with no NaN on the way back either."""
    if bias is None:
        return scores.softmax(-1)
    open_ = bias if bias.dtype == torch.bool else bias > -math.inf
    blind = ~open_.any(-1, keepdim=True)
    return scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)


@operator("FlexAttention", domain="ai.onnx.preview", scoped=True)
def flex_attention(call: Call) -> Function:
    """prob_mod(softmax(score_mod(scale · Q Kᵀ))) V, the modifiers being subgraphs (Dong et al. 2024)."""
    scale = call.real("scale") if call.given("scale") else None
    score_mod, prob_mod = call.bodies.get("score_mod"), call.bodies.get("prob_mod")
    precision = call.integer("softmax_precision", 0)

    def run(scope: Scope, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        if score_mod is None and prob_mod is None and not precision:
            return functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
        if grouped:
            share = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
        root = math.sqrt(scale if scale is not None else 1 / math.sqrt(q.shape[-1]))
        wide = carrier(precision) if precision else torch.promote_types(q.dtype, torch.float32)
        scores = ((q * root) @ (k * root).mT).to(wide)
        if score_mod is not None:
            scores = score_mod([scores], scope)[0]
        chances = scores.softmax(-1)
        if prob_mod is not None:
            chances = prob_mod([chances], scope)[0]
        return (chances @ v.to(wide)).to(v.dtype)

    return run


@operator("RotaryEmbedding")
def rotary_embedding(call: Call) -> Function:
    """Pairs of features turned by an angle of their position (Su et al. 2021)."""
    heads, width = call.integer("num_heads", 0), call.integer("rotary_embedding_dim", 0)
    interleaved = bool(call.integer("interleaved", 0))

    def run(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
        packed = x.dim() == 3
        heads_apart = _split(x, heads) if packed else x
        turned = heads_apart[..., :width] if width else heads_apart
        if positions is not None:
            cos, sin = cos[positions], sin[positions]
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        if interleaved:
            first, second = turned[..., 0::2], turned[..., 1::2]
        else:
            first, second = turned.chunk(2, dim=-1)
        real, imaginary = cos * first - sin * second, sin * first + cos * second
        if interleaved:
            turned = torch.stack((real, imaginary), dim=-1).flatten(-2)
        else:
            turned = torch.cat((real, imaginary), dim=-1)
        y = torch.cat((turned, heads_apart[..., width:]), dim=-1) if width else turned
        return _merge(y) if packed else y

    return run
