"""Boxes in pictures: suppressing double ones, looking inside them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hasten.bridge.operator import Call, Function, operator
from hasten.bridge.ops.integers import reader


@operator("NonMaxSuppression", host=(2, 3, 4))
def non_max_suppression(call: Call) -> Function:
    """Rows (batch, class, box): boxes by falling score that overlap no better one of their class."""
    centered = bool(call.integer("center_point_box", 0))
    limit_of = reader(call, 2)

    def run(
        boxes: Tensor,
        scores: Tensor,
        limit: Tensor | None = None,
        overlap: Tensor | None = None,
        lowest: Tensor | None = None,
    ) -> Tensor:
        most = 0 if limit is None else limit_of(limit)[0]
        largest_overlap = 0.0 if overlap is None else float(overlap)
        rows = []
        for b, entry in enumerate(_corners(boxes.detach(), centered)):
            shared = _overlaps(entry)
            for c, score in enumerate(scores[b].detach()):
                order = score.argsort(descending=True, stable=True)
                if lowest is not None:
                    order = order[score[order] > float(lowest)]
                clash = (shared[order][:, order] > largest_overlap).cpu()
                for i in _kept(clash, most):
                    rows.append((b, c, int(order[i])))
        return torch.tensor(rows, dtype=torch.int64, device=boxes.device).reshape(-1, 3)

    return run


def _corners(boxes: Tensor, centered: bool) -> Tensor:
    """Boxes [..., 4] as their lowest and highest corner, whichever way they were given."""
    one, other = boxes[..., :2], boxes[..., 2:]
    if centered:
        one, other = one - other / 2, one + other / 2
    return torch.cat([torch.minimum(one, other), torch.maximum(one, other)], -1)


def _overlaps(corners: Tensor) -> Tensor:
    """Intersection over union of every pair of boxes [n, 4]."""
    low = torch.maximum(corners[:, None, :2], corners[None, :, :2])
    high = torch.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (corners[:, 2:] - corners[:, :2]).prod(-1)
    union = area[:, None] + area - shared
    return torch.where(union > 0, shared / union, 0.0)


def _kept(clash: Tensor, most: int) -> list[int]:
    """The first rows of a matrix of clashes that clash with none kept before."""
    kept: list[int] = []
    free = torch.ones(len(clash), dtype=torch.bool)
    for i in range(len(clash)):
        if len(kept) >= most:
            break
        if free[i]:
            kept.append(i)
            free &= ~clash[i]
    return kept


@operator("MaxRoiPool")
def max_roi_pool(call: Call) -> Function:
    """The maximum in each cell of a grid laid over each region; regions in whole pixels."""
    cells, scale = call.integers("pooled_shape"), call.real("spatial_scale", 1.0)

    def run(x: Tensor, regions: Tensor) -> Tensor:
        found = [_pooled(x, region, cells, scale) for region in regions.tolist()]
        return torch.cat(found) if found else x.new_zeros(0, x.shape[1], *cells)

    return run


def _pooled(x: Tensor, region: list[float], cells: tuple[int, ...], scale: float) -> Tensor:
    left, top, right, bottom = (int(v * scale + 0.5) for v in region[1:])
    height, width = x.shape[2:]
    right, bottom = max(right, left) + 1, max(bottom, top) + 1
    picture = x[int(region[0])][:, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    outside = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
    padded = functional.pad(picture, outside, value=-torch.inf)
    best = functional.adaptive_max_pool2d(padded.unsqueeze(0), cells)
    return torch.where(best == -torch.inf, 0.0, best)


@operator("RoiAlign")
def roi_align(call: Call) -> Function:
    """The mean (or maximum) of samples in each cell of a grid laid over each region, without rounding.

    He et al., Mask R-CNN (2017), section 3. The samples of a cell are ``sampling_ratio`` squared, or as
    many as it has pixels.
    """
    cells = (call.integer("output_height", 1), call.integer("output_width", 1))
    ratio, scale = call.integer("sampling_ratio", 0), call.real("spatial_scale", 1.0)
    half = call.version >= 16 and call.text("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    by_mean = call.text("mode", "avg") == "avg"

    def run(x: Tensor, regions: Tensor, entries: Tensor) -> Tensor:
        edges = regions * scale - (0.5 if half else 0.0)
        lines = [
            _sample_lines(edges[:, [1 - i, 3 - i]], x.shape[2 + i], cells[i], ratio, shifted=half)
            for i in (0, 1)
        ]
        return _pooled_samples(x, entries, lines, by_mean=by_mean)

    return run


class _Lines(NamedTuple):
    """Where samples lie on one axis, each [regions, cells, samples].

    low, high: the pixels around them; weight: the part of the upper one; counted: whether a region has this
    sample; inside: whether it lies in the picture.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    counted: Tensor
    inside: Tensor


def _sample_lines(edges: Tensor, size: int, cells: int, ratio: int, *, shifted: bool) -> _Lines:
    """The samples of regions from edges[:, 0] to edges[:, 1] on an axis of ``size`` pixels."""
    length = edges[:, 1] - edges[:, 0]
    length = length if shifted else length.clamp(min=1.0)
    step = length / cells
    counts = torch.full_like(step, ratio) if ratio > 0 else step.detach().ceil()
    most = max(int(counts.max()), 1) if counts.numel() else 1
    sample = torch.arange(most, device=edges.device)
    cell = torch.arange(cells, device=edges.device).unsqueeze(1)
    within = (sample + 0.5) / counts.clamp(min=1)[:, None, None]
    place = edges[:, :1, None] + (cell + within) * step[:, None, None]
    counted = (sample < counts[:, None, None]).expand(place.shape)
    inside = (place >= -1) & (place <= size)
    place = place.clamp(0, size - 1)
    low = place.detach().floor().long()
    return _Lines(low, (low + 1).clamp(max=size - 1), place - low, counted, inside)


def _grid(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Two axes' lines made to broadcast as [regions, cells, samples, cells, samples]."""
    return rows[:, :, :, None, None], columns[:, None, None]


def _pooled_samples(x: Tensor, entries: Tensor, lines: list[_Lines], *, by_mean: bool) -> Tensor:
    rows, columns = lines
    n, c, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n * height * width, c)
    first = (entries.long() * height * width)[:, None, None, None, None]

    def corner(y: Tensor, weight_y: Tensor, at: Tensor, weight_x: Tensor) -> Tensor:
        (y, at), (one, other) = _grid(y, at), _grid(weight_y, weight_x)
        return pixels[first + y * width + at] * (one * other).unsqueeze(-1)

    corners = [
        corner(y, weight_y, at, weight_x)
        for y, weight_y in ((rows.low, 1 - rows.weight), (rows.high, rows.weight))
        for at, weight_x in ((columns.low, 1 - columns.weight), (columns.high, columns.weight))
    ]
    inside = torch.logical_and(*_grid(rows.inside, columns.inside)).unsqueeze(-1)
    counted = torch.logical_and(*_grid(rows.counted, columns.counted)).unsqueeze(-1)
    if by_mean:
        total = (torch.stack(corners).sum(0) * (inside & counted)).sum((2, 4))
        return (total / counted.sum((2, 4)).clamp(min=1)).permute(0, 3, 1, 2)
    best = torch.stack(corners).amax(0) * inside
    best = torch.where(counted, best, -torch.inf).amax((2, 4))
    return torch.where(best == -torch.inf, 0.0, best).permute(0, 3, 1, 2)
