"""What scaling loud channels keeps when only weights are stored in 4 bits, by groups of 32, 64 and 128.

    python -m benchmarks.awq --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` and ``benchmarks/lines_metric.py`` wrote. The first 200 samples
calibrate, without their labels; the next ones judge (400 pairs of sentences, 400 pictures, 200 lines).
``change`` is the relative difference of the outputs from the float model's, ‖y − ŷ‖ / ‖y‖.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.equalize import JUDGES
from benchmarks.rounding import CALIBRATION, _accuracy, _answers

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
        "`change`: ‖y − ŷ‖ / ‖y‖ of the outputs. `seconds`: of both steps, on two cores. Written by "
        "`benchmarks/awq.py`.",
        "",
        "| model | metric | n | group | by | changed | rounding | change | quality | lost | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    told: list[str] = []
    for name in arguments.names or JUDGED:
        for line in table(name, arguments.models / name, told):
            lines.append(line)
            print(line, flush=True)
            text = [*lines, "", "What `equalize` says of the layers it could change:", "", *told]
            arguments.out.write_text("\n".join(text) + "\n", encoding="utf-8")


def table(name: str, folder: Path, told: list[str]) -> Iterator[str]:
    """The rows of one model; what ``equalize`` notes is added to ``told``."""
    graph = hasten.read(folder / "model.onnx")
    with np.load(folder / ("lines.npz" if name == "ppocr_rec" else "data.npz")) as file:
        data = {key: file[key][: CALIBRATION + JUDGED[name]] for key in file.files}
    inputs = [spec.name for spec in graph.inputs]
    labels = data["labels"][CALIBRATION:]
    seen = {key: data[key][:CALIBRATION] for key in inputs}
    unseen = {key: data[key][CALIBRATION:] for key in inputs}
    metric, judge = JUDGES.get(name, ("accuracy", _accuracy))
    clean = hasten.apply(graph, hasten.Recipe([hasten.Step("optimize_graph")]), seen).graph
    wanted = _answers(clean, unseen)
    whole = judge(wanted, labels)
    head = f"| {name} | {metric} | {len(labels)} |"
    yield f"{head} | | | float32 | | {whole:.4f} | | |"
    for group in GROUPS:
        codes = {"bits": 4, "group": group, "symmetric": False}
        known: set[str] = set()
        for by, choice in BY.items():
            began = time.monotonic()
            steps = [] if choice is None else [hasten.Step("equalize", {**choice, **codes})]
            even = hasten.apply(clean, hasten.Recipe(steps), seen)
            scaling_s = time.monotonic() - began
            if even.graph.fingerprint in known:
                told.append(f"- {name}, groups of {group}, {by}: changes nothing more")
                continue
            known.add(even.graph.fingerprint)
            told += [f"- {name}, groups of {group}, {by}: {note}" for note in even.notes]
            for rounding in ROUNDINGS:
                began = time.monotonic()
                step = hasten.Step("compress_weights", {**codes, "rounding": rounding})
                made = hasten.apply(even.graph, hasten.Recipe([step]), seen).graph
                seconds = scaling_s + time.monotonic() - began
                answers = _answers(made, unseen)
                quality = judge(answers, labels)
                change = float(np.linalg.norm(answers - wanted) / np.linalg.norm(wanted))
                yield (
                    f"{head} {group} | {by} | {len(even.sites) or ''} | {rounding} | {change:.4f} "
                    f"| {quality:.4f} | {whole - quality:+.4f} | {seconds:.0f} |"
                )


if __name__ == "__main__":
    main()
