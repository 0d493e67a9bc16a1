"""What whole int8 loses, by each tool: all layers that qualify, the same calibration, judged on all the rest.

    python -m benchmarks.whole_int8 --models OUT_DIR --data DATA_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` and ``benchmarks/lines_metric.py`` wrote. The first 200 samples
calibrate (half of them, where there are fewer than 400), all others judge; for the networks of CIFAR-10 these
are the other 9,800 test pictures. ONNX Runtime calibrates by min-max, percentile and entropy, NNCF with its
default, its mixed and (MiniLM) its transformer preset; hasten as its search does first, and with the ranges
that it mends by. ``error``: of the outputs, ‖y - ŷ‖² / ‖y‖² over all samples, which tells versions apart that
flip too few decisions for a metric to. Nothing is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.contenders import CASES, Case, Peers, in_int8, source_of, whole_in_int8
from benchmarks.model_data import Arrays, cifar10
from hasten import data as data_room
from hasten.core.budget import Budget
from hasten.core.data import Calibration, Holdout, Roles, Selection
from hasten.core.errors import TrialError
from hasten.core.record import Quality
from hasten.core.target import usable_cores
from hasten.measuring import Conditions
from hasten.measuring.metrics import resolve
from hasten.measuring.predict import Predictions, predict
from hasten.measuring.quality import judge

_CALIBRATION = 200
_CIFAR = frozenset({"resnet20", "resnet56", "vgg16"})
_NOT_ALL_INT8 = ("dynamic", "bfloat16")
"""Other things than static int8 with the rest in float32."""


@dataclass(frozen=True)
class Judged:
    """A version and what it loses."""

    name: str
    error: float
    quality: Quality


def main() -> None:
    """Quantize, judge and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    names = [case.name for case in CASES]
    parser.add_argument("names", nargs="*", choices=[*names, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = [
        "# What whole int8 loses",
        "",
        "Every layer that qualifies, the same calibration samples for all, nothing trained; judged on all",
        "other samples beside the original in ONNX Runtime. `error`: of the outputs, ‖y - ŷ‖² / ‖y‖². The",
        "drop has its paired 95 % interval. In the order of the error; by `benchmarks/whole_int8.py`.",
        "",
        "| model | version | error | quality | drop (95 % interval) |",
        "|---|---|---|---|---|",
    ]
    for case in CASES:
        if case.name in (arguments.names or names):
            for line in table(case, arguments):
                lines.append(line)
                print(line, flush=True)
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(case: Case, arguments: argparse.Namespace) -> Iterator[str]:
    """The rows of a model, the smallest error first; what failed last."""
    model, _ = source_of(case, arguments.models)
    samples, metric = _judge_of(case, arguments)
    with tempfile.TemporaryDirectory(prefix="hasten-whole-") as folder:
        work = Path(folder)
        graph = hasten.read(model, shapes=case.shapes)
        fixed = work / "fixed.onnx"
        graph.write(fixed)
        store, _ = data_room.ingest(samples, graph.inputs, work / "store", seed=0)
        count = min(_CALIBRATION, len(store) // 2)
        rest = range(count, len(store))
        roles = Roles(store, Calibration(store, range(count)), Selection(store, ()), Holdout(store, rest))
        roles.save()
        made = Peers(work)
        made.add("float32", lambda: fixed)
        in_int8(made, case, fixed, roles, more=True)
        for ranges in ("minmax", "outputs"):
            whole_in_int8(made, fixed, roles, ranges)
        found = list(_judged(made, metric, roles, work))
    for one in sorted(found, key=lambda judged: judged.error):
        quality = one.quality
        yield (
            f"| {case.name} | {one.name} | {one.error:.2e} | {quality.metric} {quality.value:.4f} "
            f"(n = {quality.n}) | {quality.drop:+.4f} ({quality.ci95[0]:+.4f} to {quality.ci95[1]:+.4f}) |"
        )
    for name, error in made.failures:
        yield f"| {case.name} | {name} | failed: {error} | | |"


def _judge_of(case: Case, arguments: argparse.Namespace) -> tuple[Path | Arrays, str | None]:
    """The samples, and the metric that tells most: of the recognizer whole lines of text."""
    _, data = source_of(case, arguments.models)
    if case.name in _CIFAR:
        return cifar10(arguments.data, None), case.metric
    if case.name == "ppocr_rec":
        return data.with_name("lines.npz"), "benchmarks.lines_metric:read_right"
    return data, case.metric


def _judged(made: Peers, metric: str | None, roles: Roles, work: Path) -> Iterator[Judged]:
    """All versions in int8 beside the first subject, the original."""
    conditions, reference, judging = Conditions(threads=usable_cores()), None, None
    for subject in made.subjects:
        if any(word in subject.name for word in _NOT_ALL_INT8):
            continue
        try:
            answers = predict(subject, roles.holdout, conditions, work / "answers")
        except TrialError as error:
            made.failures.append((subject.name, str(error)))
            continue
        if reference is None or judging is None:
            reference, judging = answers, resolve(metric, roles.holdout, answers)
        quality = judge(judging, reference, answers, roles.holdout, Budget())
        yield Judged(subject.name, _error(answers, reference), quality)


def _error(answers: Predictions, reference: Predictions) -> float:
    """‖y - ŷ‖² / ‖y‖² of the output that is worst off."""
    worst = 0.0
    for name in reference.outputs:
        pairs = zip(answers.values(name), reference.values(name), strict=True)
        sums = np.sum([_squares(ours, theirs) for ours, theirs in pairs], axis=0)
        worst = max(worst, float(sums[0] / sums[1])) if sums[1] else worst
    return worst


def _squares(ours: Any, theirs: Any) -> tuple[float, float]:
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    return float(np.sum(difference**2)), float(np.sum(np.asarray(theirs, np.float64) ** 2))


if __name__ == "__main__":
    main()
