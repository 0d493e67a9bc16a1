"""Resizing: Resize and Upsample.

How an axis is resized is worked out once for each size that comes (``interpolation``). Where torch's own
interpolation does the same, which is tried out then and there, it is used; otherwise elements are picked
(nearest) or each axis is multiplied by its matrix of weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.integers import known, read, wrapped
from hasten.bridge.ops.interpolation import (
    COORDINATES,
    MODES,
    NEAREST,
    Axis,
    Rule,
    nearest_index,
    outside,
    weights,
)

_Plan = Callable[[Tensor], Tensor]
_PLANS_KEPT = 64


def _numbers(call: Call, index: int) -> Callable[[Tensor | None], tuple[float, ...]]:
    """A reader of an input of floats; empty when it is absent."""
    value = call.constant(index)
    if value is None:
        return lambda given: () if given is None else tuple(given.reshape(-1).tolist())
    fixed = tuple(float(v) for v in value.reshape(-1))
    return lambda _: fixed


@operator("Resize", host=(1, 2, 3))
def resize(call: Call) -> Function:
    """Another size by interpolation; by ``scales`` or to ``sizes``, of all axes or some."""
    if call.version < 11:
        return _old(call, 1)
    rule = Rule(
        call.text("mode", "nearest"),
        call.text("coordinate_transformation_mode", "half_pixel"),
        call.text("nearest_mode", "round_prefer_floor"),
        call.real("cubic_coeff_a", -0.75),
        bool(call.integer("exclude_outside", 0)),
        bool(call.integer("antialias", 0)),
    )
    _refuse_unknown(call, rule)
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    only = call.integers("axes") if call.given("axes") else None
    beyond = call.real("extrapolation_value", 0.0)
    crop_of, scales_of = _numbers(call, 1), _numbers(call, 2)
    sizes_now = known(call, 3)

    def run(
        x: Tensor, crop: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
    ) -> Tensor:
        targets = sizes_now if sizes is None or sizes_now is not None else read(sizes)
        given = scales_of(scales)
        places = tuple(wrapped(a, x.dim()) for a in (range(x.dim()) if only is None else only))
        axes = _sized(x, places, targets, policy) if targets else _scaled(x, places, given)
        if rule.coordinates == "tf_crop_and_resize":
            axes = _cropped(axes, places, crop_of(crop))
        return plans(x, axes)

    plans = _Plans(rule, beyond)
    return run


def _refuse_unknown(call: Call, rule: Rule) -> None:
    for name, known_ones in ((rule.mode, MODES), (rule.coordinates, COORDINATES), (rule.nearest, NEAREST)):
        if name not in known_ones:
            raise call.wrong(f"resizes by {name!r}; there are {', '.join(sorted(known_ones))}")


@operator("Upsample")
def upsample(call: Call) -> Function:
    """Resize as it was first: scales only, each output element at its place divided by the scale."""
    return _old(call, 1)


def _old(call: Call, index: int) -> Function:
    plans = _Plans(Rule(call.text("mode", "nearest"), "asymmetric", "floor", -0.75, False, False), 0.0)
    scales_of = _numbers(call, index)
    return lambda x, scales: plans(x, _scaled(x, tuple(range(x.dim())), scales_of(scales)))


_Axes = dict[int, Axis]


def _scaled(x: Tensor, places: tuple[int, ...], scales: tuple[float, ...]) -> _Axes:
    return {
        place: Axis(x.shape[place], int(np.floor(np.float32(x.shape[place]) * np.float32(scale))), scale)
        for place, scale in zip(places, scales, strict=True)
    }


def _sized(x: Tensor, places: tuple[int, ...], sizes: tuple[int, ...], policy: str) -> _Axes:
    ratios = [size / x.shape[place] for place, size in zip(places, sizes, strict=True)]
    if policy == "stretch":
        triples = zip(places, sizes, ratios, strict=True)
        return {place: Axis(x.shape[place], size, ratio) for place, size, ratio in triples}
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return {place: Axis(x.shape[place], int(ratio * x.shape[place] + 0.5), ratio) for place in places}


def _cropped(axes: _Axes, places: tuple[int, ...], crop: tuple[float, ...]) -> _Axes:
    """Axes looked at from crop[i] to crop[n + i], in parts of their length."""
    count = len(places)
    return {
        place: Axis(axes[place].size, axes[place].target, axes[place].scale, crop[i], crop[count + i])
        for i, place in enumerate(places)
    }


class _Plans:
    """What to do for each size met so far."""

    def __init__(self, rule: Rule, beyond: float) -> None:
        self._rule = rule
        self._beyond = beyond
        self._plans: dict[Any, _Plan] = {}

    def __call__(self, x: Tensor, axes: _Axes) -> Tensor:
        key = (tuple(axes.items()), x.dim(), x.dtype, x.device)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            # What is kept here is used in training later, which tensors of inference mode cannot be.
            with torch.inference_mode(False), torch.no_grad():
                plan = self._plans[key] = self._plan(x, axes)
        return plan(x)

    def _plan(self, x: Tensor, axes: _Axes) -> _Plan:
        rule = self._rule
        changed = {place: axis for place, axis in axes.items() if axis != Axis(axis.size, axis.size, 1.0)}
        if not changed:
            return lambda x: x
        if rule.mode == "nearest":
            chosen = {place: nearest_index(rule, axis) for place, axis in changed.items()}
            plan = _by_torch(x, changed, chosen, ("nearest",)) or _picking(x, chosen)
        else:
            matrices = {place: weights(rule, axis) for place, axis in changed.items()}
            modes = _linear_modes(x.dim()) if rule.mode == "linear" else ("bicubic",)
            plan = _by_torch(x, changed, matrices, modes, rule.antialias) or _multiplying(x, matrices)
        far = {place: outside(rule, axis) for place, axis in changed.items()}
        return _filled(x, plan, far, self._beyond)


def _linear_modes(rank: int) -> tuple[str, ...]:
    return {3: ("linear",), 4: ("bilinear",), 5: ("trilinear",)}.get(rank, ())


def _by_torch(
    x: Tensor,
    axes: _Axes,
    wanted: dict[int, Any],
    modes: tuple[str, ...],
    antialias: bool = False,
) -> _Plan | None:
    """Torch's own interpolation if one of its ways does on each axis what is wanted; else None.

    wanted: indices (nearest) or matrices. A way is tried on random columns, which two different matrices
    do not map to the same.
    """
    spatial = x.dim() - 2
    if min(axes) < 2 or not 1 <= spatial <= 3 or not x.is_floating_point():
        return None
    if spatial != 2 and ("bicubic" in modes or antialias):
        return None
    target = [axes[a].target if a in axes else x.shape[a] for a in range(2, x.dim())]
    if min(target) == 0:
        return None
    for mode in modes:
        for corners in (None,) if mode == "nearest" else (False, True):
            ways: dict[str, Any] = {"mode": mode, "align_corners": corners, "antialias": antialias}
            if all(_agrees(x.dim(), place, axes[place], wanted[place], ways) for place in axes):
                return functools.partial(functional.interpolate, size=target, **ways)
    return None


def _agrees(rank: int, place: int, axis: Axis, wanted: Any, ways: dict[str, Any]) -> bool:
    columns = torch.rand(axis.size, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shape = [1, 4] + [1] * (rank - 2)
    shape[place] = axis.size
    size = [1] * (rank - 2)
    size[place - 2] = axis.target
    found = functional.interpolate(columns.t().reshape(shape), size=size, **ways).reshape(4, -1).t().numpy()
    values = columns.numpy()
    expected = values[wanted] if wanted.ndim == 1 else wanted @ values
    # Double precision: rounding errors are near 1e-16 times the number of taps.
    return bool(np.abs(found - expected).max() < 1e-9)


def _picking(x: Tensor, chosen: dict[int, Any]) -> _Plan:
    indices = {place: torch.from_numpy(index).to(x.device) for place, index in chosen.items()}

    def run(x: Tensor) -> Tensor:
        for place, index in indices.items():
            x = x.index_select(place, index)
        return x

    return run


def _multiplying(x: Tensor, matrices: dict[int, Any]) -> _Plan:
    kind = x.dtype if x.is_floating_point() else torch.float32
    held = {place: torch.from_numpy(matrix).to(x.device, kind) for place, matrix in matrices.items()}

    def run(x: Tensor) -> Tensor:
        y = x.to(kind)
        for place, matrix in held.items():
            y = functional.linear(y.movedim(place, -1), matrix).movedim(-1, place)
        return y.to(x.dtype)

    return run


def _filled(x: Tensor, plan: _Plan, far: dict[int, Any], beyond: float) -> _Plan:
    """The plan with a constant wherever any axis lies outside the input."""
    if not any(mask.any() for mask in far.values()):
        return plan
    total = torch.zeros((1,) * x.dim(), dtype=torch.bool, device=x.device)
    for place, mask in far.items():
        shape = [1] * x.dim()
        shape[place] = -1
        total = total | torch.from_numpy(mask).to(x.device).reshape(shape)
    return lambda x: plan(x).masked_fill(total, beyond)
