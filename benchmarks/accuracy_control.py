"""NNCF's accuracy control: layers go back to float one by one until a metric is within a bound.

It is given what hasten's search is given: calibration samples to quantize with, the selection samples to
look at, the same bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hasten import loaders
from hasten.core.data import Roles

_SAMPLES = 200
_PLACE = "place"


def accuracy_control(
    model: Path, feeds: list[dict[str, Any]], store: Path, metric: str | None, folder: Path
) -> None:
    """Write the model that NNCF quantized to lose at most 1 % of the metric on selection samples.

    store: the folder of the ingested data, split into roles.
    """
    import nncf
    import openvino as ov

    folder.mkdir()
    inputs = loaders.read(model).graph.inputs
    batches = list(Roles.open(store).selection.take(_SAMPLES).batches(1))
    items = [batch.feeds(inputs) for batch in batches]
    score = _score(
        metric, [None if batch.labels is None else np.asarray(batch.labels)[0] for batch in batches]
    )
    opened = ov.Core().read_model(model)
    wanted = _answers(ov.compile_model(opened, "CPU"), items)

    def validate(compiled: Any, given: Iterable[dict[str, Any]]) -> tuple[float, None]:
        # NNCF may ask for some of the items only, so each knows its place.
        asked = list(given)
        places = [item[_PLACE] for item in asked]
        return score(_answers(compiled, asked), [wanted[place] for place in places], places), None

    numbered = [{**item, _PLACE: place} for place, item in enumerate(items)]
    made = nncf.quantize_with_accuracy_control(
        opened,
        nncf.Dataset(feeds),
        nncf.Dataset(numbered),
        validate,
        max_drop=0.01,
        drop_type=nncf.DropType.RELATIVE,
        subset_size=len(feeds),
    )
    ov.save_model(made, folder / "model.xml", compress_to_fp16=False)


def _answers(compiled: Any, items: list[dict[str, Any]]) -> list[Any]:
    plain = ({name: value for name, value in item.items() if name != _PLACE} for item in items)
    return [np.asarray(compiled(item)[0]) for item in plain]


def _score(metric: str | None, labels: list[Any]) -> Callable[[list[Any], list[Any], list[int]], float]:
    """More is better: the metric where there are labels, otherwise the share of decisions that stay."""

    def accuracy(answers: list[Any], wanted: list[Any], places: list[int]) -> float:
        return float(np.mean([a.argmax() == labels[p] for a, p in zip(answers, places, strict=True)]))

    def spearman(answers: list[Any], wanted: list[Any], places: list[int]) -> float:
        from scipy.stats import spearmanr

        return float(spearmanr([float(a.squeeze()) for a in answers], [labels[p] for p in places]).statistic)

    def agreement(answers: list[Any], wanted: list[Any], places: list[int]) -> float:
        same = [np.mean(a.argmax(-1) == w.argmax(-1)) for a, w in zip(answers, wanted, strict=True)]
        return float(np.mean(same))

    return {"accuracy": accuracy, "spearman": spearman}.get(metric or "", agreement)
