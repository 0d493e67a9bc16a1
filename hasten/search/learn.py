"""Would learning mend a quantized or smaller model, and how much of it fits into the time left?"""

from __future__ import annotations

from hasten import train
from hasten.core.errors import Unavailable
from hasten.core.recipe import Step

FEWEST_SAMPLES = 256
"""Below this a network learns the samples by heart."""

_MOST_EPOCHS = 8.0
_FEWEST_EPOCHS = 0.5
_MOST_EPOCHS_SMALLER = 30.0
"""A graph that lost channels or layers has more to learn again than one that was rounded."""
_RATE = 3e-4
_INFERENCES = 34.0
"""What training costs a sample, in inferences of the original: 4 to 34 were measured (MiniLM the least,
EfficientNet-Lite0 with its depthwise convolutions the most; benchmarks/training_cost.py). The most counts: a
training that has begun is not cut short when the time is spent."""

_SHARE = 0.6
"""Part of the time left that learning may take; what it made must still be measured."""

_FEWEST_HELD_BACK = 40
"""Samples with which ``reconstruct`` has a few to judge each block by."""
_SEEN = 400.0
"""Samples that ``reconstruct`` shows each block on average, counting what judges it: early blocks have many
positions and see few (benchmarks/reconstruct.py)."""


def reconstruct(samples: int, inference_ms: float, seconds_left: float) -> Step | None:
    """The step that mends a quantized or smaller graph block by block; None without time, samples or means.

    samples: of the calibration role. inference_ms: one inference of one sample in float32.
    """
    if samples < _FEWEST_HELD_BACK or not _can_learn():
        return None
    # All blocks together are one model, so what each is shown costs as much as showing it to the model.
    needed_s = _SEEN * _INFERENCES * inference_ms / 1e3
    return Step("reconstruct") if needed_s <= _SHARE * seconds_left else None


def quantize_aware(samples: int, inference_ms: float, seconds_left: float) -> Step | None:
    """The step that trains a quantized graph for as long as there is time; None where it would not pay.

    samples: of the calibration role. inference_ms: one inference of one sample in float32.
    """
    epochs = _epochs(samples, inference_ms, seconds_left, _MOST_EPOCHS)
    return None if epochs is None else Step("quantize_aware", {"epochs": epochs})


def distill(samples: int, inference_ms: float, seconds_left: float) -> Step | None:
    """The step by which a smaller graph learns from the original for as long as there is time; or None.

    samples, inference_ms: as of ``quantize_aware``.
    """
    epochs = _epochs(samples, inference_ms, seconds_left, _MOST_EPOCHS_SMALLER)
    return None if epochs is None else Step("distill", {"epochs": epochs, "learning_rate": _RATE})


def finetune(samples: int, inference_ms: float, seconds_left: float) -> Step | None:
    """The step by which a smaller graph learns from labels for as long as there is time; or None.

    samples, inference_ms: as of ``quantize_aware``.
    """
    epochs = _epochs(samples, inference_ms, seconds_left, _MOST_EPOCHS_SMALLER)
    return None if epochs is None else Step("finetune", {"epochs": epochs, "learning_rate": _RATE})


def _epochs(samples: int, inference_ms: float, seconds_left: float, most: float) -> float | None:
    """Passes over the samples that there is time for; None where learning would not pay."""
    if samples < FEWEST_SAMPLES or not _can_learn():
        return None
    epoch_s = samples * _INFERENCES * inference_ms / 1e3
    epochs = min(most, _SHARE * seconds_left / epoch_s)
    return None if epochs < _FEWEST_EPOCHS else round(epochs, 1)


def _can_learn() -> bool:
    try:
        train.require()
    except Unavailable:
        return False
    return True
