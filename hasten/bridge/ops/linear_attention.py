"""Attention without softmax, as a recurrence over a state: LinearAttention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hasten.bridge.operator import Call, Function, operator

_RULES = {
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}
"""Update rule: whether the state decays, and whether what it holds of a key is replaced."""


@operator("LinearAttention")
def linear_attention(call: Call) -> Function:
    """S = exp(g) S + beta · k (v - (exp(g) S)ᵀ k)ᵀ, y = scale · Sᵀ q at every position.

    Without decay g = 0; without the delta rule S = exp(g) S + k vᵀ.
    """
    rule = call.text("update_rule", "gated_delta")
    if rule not in _RULES:
        raise call.wrong(f"has an unknown update_rule {rule!r}")
    decays, corrects = _RULES[rule]
    if call.has(4) != decays or call.has(5) != corrects:
        raise call.wrong(f"must have decay and beta exactly as its update_rule {rule!r} asks for them")
    query_heads, heads = call.integer("q_num_heads"), call.integer("kv_num_heads")
    given_scale = call.real("scale", 0.0)

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        past: Tensor | None = None,
        decay: Tensor | None = None,
        beta: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(q.dtype, torch.float32)
        batch, length = q.shape[:2]
        # (batch, length, key heads, query heads of each, key size)
        queries = q.to(wide).reshape(batch, length, heads, query_heads // heads, -1)
        keys = k.to(wide).reshape(batch, length, heads, -1)
        values = v.to(wide).reshape(batch, length, heads, -1)
        keep = None if decay is None else decay.to(wide).exp().reshape(batch, length, heads, -1, 1)
        rate = None if beta is None else beta.to(wide).unsqueeze(-1)
        scale = given_scale or 1 / math.sqrt(queries.shape[-1])
        shape = (batch, heads, keys.shape[-1], values.shape[-1])
        state = queries.new_zeros(shape) if past is None else past.to(wide)
        read = []
        for t in range(length):
            key, value = keys[:, t, :, :, None], values[:, t, :, None]
            if keep is not None:
                state = state * keep[:, t]
            if rate is not None:
                value = rate[:, t, :, None] * (value - key.mT @ state)
            state = state + key * value
            read.append(queries[:, t] @ state)
        y = scale * torch.stack(read, dim=1).flatten(2)
        return y.to(q.dtype), state.to(q.dtype if past is None else past.dtype)

    return run
