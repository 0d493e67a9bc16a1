"""Which layers would saturate on CPUs without VNNI? Simulated on what they read of calibration samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hasten.core.data import Array, Calibration
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.methods import Context
from hasten.methods._observe.moments import as_rows, inputs_of
from hasten.methods._qdq.layers import IntegerLayer
from hasten.numerics.affine import Affine
from hasten.numerics.saturation import saturating_share

_SAMPLES, _POSITIONS = 4, 8


@dataclass(frozen=True)
class Rounded:
    """A layer that was quantized: the name of what it read in the original, and how that is rounded."""

    layer: IntegerLayer
    activation: str
    quantizer: Affine


def saturation(
    original: Graph, layers: Iterable[Rounded], samples: Calibration, context: Context
) -> dict[str, float]:
    """The share of outputs that saturate, of each layer where any does, by the layer's name.

    Neighbouring products are those of neighbouring channels, as kernels for channels-last data have them.
    """
    wanted = list(layers)
    evaluator = Evaluator(
        original, list(dict.fromkeys(each.activation for each in wanted)), threads=context.threads
    )
    seen: list[list[Array]] = [[] for _ in wanted]
    for batch in samples.take(_SAMPLES).batches_for(original.inputs):
        feeds = batch.feeds(original.inputs)
        values = feeds | evaluator.run(feeds)
        for rows, each in zip(seen, wanted, strict=True):
            rows.append(inputs_of(each.layer, values[each.activation], _POSITIONS))
    found: dict[str, float] = {}
    for rows, each in zip(seen, wanted, strict=True):
        activations = _channels_last(each.layer, each.quantizer.quantize(np.concatenate(rows, axis=1)))
        weights = _channels_last(each.layer, as_rows(each.layer, _integers(each.layer)))
        shares = [saturating_share(x, w) for x, w in zip(activations, weights, strict=True)]
        if any(shares):
            found[each.layer.name] = float(np.mean(shares))
    return found


def _integers(layer: IntegerLayer) -> Array:
    """The stored integers of a layer's weight, behind the DequantizeLinear it reads."""
    weight = layer.node.inputs[1]
    dequantize = weight.producer() if weight is not None else None
    stored = dequantize.inputs[0] if dequantize is not None else None
    assert stored is not None
    assert stored.const_value is not None
    return stored.const_value.numpy()


def _channels_last(layer: IntegerLayer, rows: Array) -> Array:
    """Rows of a convolution, channel by channel, as rows of one place after the other."""
    if layer.node.op_type != "Conv":
        return rows
    channels = layer.array.shape[1]
    split = rows.reshape(*rows.shape[:2], channels, -1)
    return split.swapaxes(2, 3).reshape(rows.shape)
