"""Which layers in int8, which as they were: what the exact choice gives between float32 and whole int8.

    python -m benchmarks.mixed_bits --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. Each model runs on OpenVINO in float32, with all layers in
int8, and with the layers in int8 that the knapsack chooses of measured harm and measured time, so that the
error of the outputs falls to parts of what it is in whole int8. All are timed in the same rounds and judged
on the holdout. Nothing is trained; nothing is looked at but the calibration samples.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import CASES, Case, source_of
from benchmarks.timings import OPENVINO_INT8
from hasten import measuring
from hasten.core.budget import Budget
from hasten.core.recipe import Recipe, Step
from hasten.core.record import Scorecard
from hasten.core.target import cpu_name, usable_cores
from hasten.measuring import Conditions
from hasten.search.candidate import CLEAN, Candidate
from hasten.search.forms import CHANGED, choose_forms, forms_of
from hasten.search.layers import saved
from hasten.search.original import measure_original
from hasten.search.prepare import prepare
from hasten.search.request import Request
from hasten.search.trial import Lab

_PARTS = (0.5, 0.2, 0.05)
"""Of the outputs' error in whole int8, what a mixed version may have."""
_BLAMED = 5
_LIMIT_S = 60.0
"""Time that the harm of the layers may take to measure."""
_INT8 = Step("quantize_static", OPENVINO_INT8)


@dataclass(frozen=True)
class Version:
    """A version of a model: the part of its layers in int8, and the error of its outputs ‖y - ŷ‖² / ‖y‖².

    worst: of the layers that were chosen among, those whose rounding alone does most harm.
    """

    name: str
    candidate: Candidate
    in_int8: str
    error: float
    worst: tuple[str, ...] = ()


def main() -> None:
    """Choose, measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    names = [case.name for case in CASES]
    parser.add_argument("names", nargs="*", choices=[*names, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = [
        "# Layers in int8 and in float32, chosen exactly",
        "",
        f"OpenVINO on {usable_cores()} threads of {cpu_name()}, batch 1, all versions of a model in the same "
        "rounds; judged on the holdout. `error`: of the outputs,",
        "‖y - ŷ‖² / ‖y‖² on calibration samples. `front`: no other version of the model has less error and "
        "less time. Written by",
        "`benchmarks/mixed_bits.py`.",
        "",
        "| model | version | layers in int8 | error | drop (95 % interval) | times float32 | front |",
        "|---|---|---|---|---|---|---|",
    ]
    blamed = [
        "",
        "## Layers to blame",
        "",
        f"The {_BLAMED} layers whose rounding alone does most harm to the outputs, the worst first:",
        "",
    ]
    for case in CASES:
        if case.name in (arguments.names or names):
            rows, worst = table(case, arguments.models)
            print("\n".join(rows), flush=True)
            lines += rows
            blamed.append(f"- {case.name}: {', '.join(f'`{name}`' for name in worst)}")
            arguments.out.write_text("\n".join([*lines, *blamed]) + "\n", encoding="utf-8")


def table(case: Case, models: Path) -> tuple[list[str], list[str]]:
    """The rows of a model, and its layers that do most harm."""
    model, data = source_of(case, models)
    conditions = Conditions(threads=usable_cores(), time_limit_s=10.0)
    with tempfile.TemporaryDirectory(prefix="hasten-mixed-") as folder:
        request = Request(
            model=model,
            data=data,
            folder=Path(folder),
            metric=case.metric,
            target="openvino",
            shapes=case.shapes,
            budget=Budget(max_drop=0.01),
        )
        prepared = prepare(request, conditions.threads)
        try:
            lab, _, _ = measure_original(prepared, request, conditions)
            versions = list(_versions(lab, conditions.threads))
            subjects = [lab.subject(version.candidate) for version in versions]
            cards = measuring.compare(
                subjects, prepared.roles.holdout, lab.metric, conditions, Path(folder) / "compare"
            )
        finally:
            prepared.workshop.close()
    measured = [(v, c) for v, c in zip(versions, cards, strict=True) if isinstance(c, Scorecard)]
    rows = [_row(case.name, version, card, _on_front(version, card, measured)) for version, card in measured]
    worst = next((version.worst for version in versions if version.worst), ())
    return rows, [*worst]


def _versions(lab: Lab, threads: int) -> Iterator[Version]:
    """Float32, the mixed ones, whole int8; those that the choice repeats once."""
    options = {"threads": threads}
    clean = Candidate(Recipe((CLEAN,)), "openvino", options)
    whole = Candidate(Recipe((CLEAN, _INT8)), "openvino", options)
    yield Version("float32", clean, "none", 0.0)
    forms = forms_of(whole, narrow=False)
    assert forms is not None
    saves = {form: saved(lab, forms.left, step) for form, step in forms.steps.items()}
    error = math.nan  # not known where no choice was found
    seen = {clean.id, whole.id}
    for part in _PARTS:
        choice = choose_forms(lab.workshop, forms, saves, part, _LIMIT_S)
        if choice is None:
            continue
        error = choice.error_before
        candidate = forms.mixed(choice)
        if candidate.id not in seen:
            seen.add(candidate.id)
            changed = f"{len(choice.layers(CHANGED))} of {len(choice.forms)}"
            worst = tuple(choice.forms)[:_BLAMED]
            yield Version(f"mixed, {part:g} of the error", candidate, changed, choice.error_after, worst)
    yield Version("int8", whole, "all that qualify", error)


def _on_front(version: Version, card: Scorecard, all_of_them: Sequence[tuple[Version, Scorecard]]) -> bool:
    return not any(
        other.error < version.error and _ratio(theirs) > _ratio(card) for other, theirs in all_of_them
    )


def _ratio(card: Scorecard) -> float:
    return card.speedup.median if card.speedup is not None else 1.0


def _row(model: str, version: Version, card: Scorecard, front: bool) -> str:
    quality, ratio = card.quality, card.speedup
    assert quality is not None
    assert ratio is not None
    return (
        f"| {model} | {version.name} | {version.in_int8} | {version.error:.2e} | {quality.drop:+.4f} "
        f"({quality.ci95[0]:+.4f} to {quality.ci95[1]:+.4f}) | {ratio.median:.2f} "
        f"({ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f}) | {'yes' if front else 'no'} |"
    )


if __name__ == "__main__":
    main()
