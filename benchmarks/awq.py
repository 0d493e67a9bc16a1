"""What scaling loud channels keeps when only weights are stored in 4 bits, by groups of 32, 64 and 128.

    python -m benchmarks.awq --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` and ``benchmarks/lines_metric.py`` wrote. The first 200 samples
calibrate, without their labels; the next ones judge (400 pairs of sentences, 400 pictures, 200 lines).
``change`` is the relative difference of the outputs from the float model's, ‖y − ŷ‖ / ‖y‖.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.equalize import JUDGES
from benchmarks.rounding import CALIBRATION, accuracy, answers
from hasten import methods
from hasten.core.data import Calibration, StoreWriter

JUDGED = {"minilm": 400, "efficientnet_lite0": 400, "ppocr_rec": 200}
GROUPS = (32, 64, 128)
BY: dict[str, dict[str, Any] | None] = {
    "": None,
    "codes": {"by": "codes"},
    "codes, residuals": {"by": "codes", "residuals": True},
}
ROUNDINGS = ("nearest", "outputs")


def main() -> None:
    """Scale, store, judge, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", choices=[*JUDGED, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = [
        "# Scaling loud channels before weights are stored in 4 bits",
        "",
        "`equalize` (`by`), then `compress_weights` with 4 bits and zero points, after "
        f"`optimize_graph`; {CALIBRATION} samples",
        "calibrate, nothing trained; judged on `n` others, computed by ONNX Runtime. `changed`: layers that "
        "`equalize` changed.",
        "`change`: ‖y − ŷ‖ / ‖y‖ of the outputs. A way to equalize that changes nothing more than the one "
        "above it has no",
        "rows. Written by `benchmarks/awq.py`.",
        "",
        "| model | metric | n | group | by | changed | rounding | change | quality | lost |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    told: list[str] = []
    for name in arguments.names or JUDGED:
        with tempfile.TemporaryDirectory() as work:
            for line in table(name, arguments.models / name, Path(work), told):
                lines.append(line)
                print(line, flush=True)
                text = [*lines, "", "What `equalize` says of the layers it could change:", "", *told]
                arguments.out.write_text("\n".join(text) + "\n", encoding="utf-8")


def table(name: str, folder: Path, work: Path, told: list[str]) -> Iterator[str]:
    """The rows of one model; ``work`` is an empty folder. What ``equalize`` notes is added to ``told``."""
    graph = hasten.read(folder / "model.onnx")
    with np.load(folder / ("lines.npz" if name == "ppocr_rec" else "data.npz")) as file:
        data = {key: file[key][: CALIBRATION + JUDGED[name]] for key in file.files}
    inputs = [spec.name for spec in graph.inputs]
    labels = data["labels"][CALIBRATION:]
    context = calibrated({key: data[key][:CALIBRATION] for key in inputs}, work)
    unseen = {key: data[key][CALIBRATION:] for key in inputs}
    metric, judge = JUDGES.get(name, ("accuracy", accuracy))
    clean = methods.apply(hasten.Recipe([hasten.Step("optimize_graph")]), graph, context).graph
    wanted = answers(clean, unseen)
    whole = judge(wanted, labels)
    head = f"| {name} | {metric} | {len(labels)} |"
    yield f"{head} | | | float32 | | {whole:.4f} | |"
    for group in GROUPS:
        codes = {"bits": 4, "group": group, "symmetric": False}
        known: set[str] = set()
        for by, choice in BY.items():
            steps = [] if choice is None else [hasten.Step("equalize", {**choice, **codes})]
            even = methods.apply(hasten.Recipe(steps), clean, context)
            if even.graph.fingerprint in known:
                continue
            told += [f"- {name}, groups of {group}, {by}: {note}." for note in even.notes]
            known.add(even.graph.fingerprint)
            for rounding in ROUNDINGS:
                step = hasten.Step("compress_weights", {**codes, "rounding": rounding})
                made = methods.apply(hasten.Recipe([step]), even.graph, context).graph
                given = answers(made, unseen)
                quality = judge(given, labels)
                change = float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))
                yield (
                    f"{head} {group} | {by} | {len(even.sites) or ''} | {rounding} | {change:.4f} "
                    f"| {quality:.4f} | {whole - quality:+.4f} |"
                )


def calibrated(samples: dict[str, Any], work: Path) -> methods.Context:
    """A context whose calibration data these are; what is seen of one graph is kept in ``work``."""
    writer = StoreWriter(work / "store", list(samples))
    for i in range(CALIBRATION):
        writer.append({key: array[i] for key, array in samples.items()})
    calibration = Calibration(writer.close(), range(CALIBRATION))
    return methods.Context(calibration=calibration, work=work, threads=2, batch=10)


if __name__ == "__main__":
    main()
