"""Would learning mend a quantized or smaller model, and how much of it fits into the time left?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hasten import train
from hasten.core.data import Calibration
from hasten.core.errors import InputError, TrialError, Unavailable
from hasten.core.recipe import Json, Step
from hasten.measuring import Metric
from hasten.search.build import Training, Workshop

FEWEST_SAMPLES = 256
"""Below this a network learns the samples by heart."""

_MOST_EPOCHS = 8.0
_FEWEST_EPOCHS = 0.5
_MOST_EPOCHS_SMALLER = 30.0
"""A graph that lost channels or layers has more to learn again than one that was rounded."""
_PLAIN: Mapping[str, Json] = {"learning_rate": 3e-4}
_NORMALIZED: Mapping[str, Json] = {"learning_rate": 1e-3, "normalize": True}
"""ResNet-20 learns more from as many samples so, in up to 1.6 times the time; a small CNN as much
(docs/results/learning_rates.md)."""
_ROUNDING = 3.0
"""How many times as long a training takes that rounds what layers read and their weights
(benchmarks/training_cost.py: 2.2 at most), and a reserve, since laying channels last has made plain trainings
faster than those: one that has begun is not cut short."""

_SHARE = 0.6
"""Part of the time left that learning may take; what it made must still be measured."""

_FEWEST_HELD_BACK = 40
"""Samples with which ``reconstruct`` has a few to judge each block by."""
_SEEN = 400.0
"""Samples that ``reconstruct`` shows each block on average, counting what judges it: early blocks have many
positions and see few (benchmarks/reconstruct.py)."""


@dataclass(frozen=True)
class Learning:
    """Proposes steps that learn, as long as there is time for. samples: of the calibration role.

    What a training takes is measured, once a search and when it is first asked for. A smaller graph learns
    with normalizations where it can have them.
    """

    workshop: Workshop
    samples: int

    @property
    def possible(self) -> bool:
        """Whether there are the means, and samples for any of it."""
        return self.samples >= _FEWEST_HELD_BACK and _can_learn()

    def reconstruct(self, seconds_left: float) -> Step | None:
        """The step that mends a quantized or smaller graph block by block; None without time or means."""
        # All blocks together are one model, so what each is shown costs as much as showing it to the model.
        training = self._training(seconds_left, _FEWEST_HELD_BACK)
        shown = _SHARE * seconds_left / training.plain_s if training else 0.0
        return Step("reconstruct") if shown >= _SEEN else None

    def quantize_aware(self, seconds_left: float) -> Step | None:
        """The step that trains a quantized graph as long as there is time; None where it would not pay."""
        training = self._training(seconds_left, FEWEST_SAMPLES)
        if training is None:
            return None
        epochs = self._epochs(seconds_left, _ROUNDING * training.plain_s, _MOST_EPOCHS)
        return None if epochs is None else Step("quantize_aware", {"epochs": epochs})

    def distill(self, seconds_left: float) -> Step | None:
        """The step by which a smaller graph learns from the original as long as there is time, or None."""
        return self._taught("distill", seconds_left)

    def finetune(self, seconds_left: float) -> Step | None:
        """The step by which a smaller graph learns from labels as long as there is time, or None."""
        return self._taught("finetune", seconds_left)

    def _taught(self, method: str, seconds_left: float) -> Step | None:
        training = self._training(seconds_left, FEWEST_SAMPLES)
        if training is None:
            return None
        sample_s, how = training.plain_s, _PLAIN
        if training.normalized_s is not None:
            sample_s, how = training.normalized_s, _NORMALIZED
        epochs = self._epochs(seconds_left, sample_s, _MOST_EPOCHS_SMALLER)
        return None if epochs is None else Step(method, {"epochs": epochs, **how})

    def _epochs(self, seconds_left: float, sample_s: float, most: float) -> float | None:
        """Passes over the samples that there is time for; None where so few would not pay."""
        epochs = min(most, _SHARE * seconds_left / (sample_s * self.samples))
        return None if epochs < _FEWEST_EPOCHS else round(epochs, 1)

    def _training(self, seconds_left: float, fewest: int) -> Training | None:
        """What training takes; None without the samples, the time or the means for any."""
        if self.samples < fewest or seconds_left <= 0 or not _can_learn():
            return None
        try:
            return self.workshop.training()
        except (TrialError, InputError):
            return None  # an operator without a gradient, say


def teaches(calibration: Calibration, metric: Metric) -> bool:
    """Whether there are labels, and they say what the outputs should be.

    Outputs that are only ranked by their labels need not have their unit: a cosine that is taught to be 4.2
    forgets what it was.
    """
    return calibration.has_labels and metric.name != "spearman"


def _can_learn() -> bool:
    try:
        train.require()
    except Unavailable:
        return False
    return True
