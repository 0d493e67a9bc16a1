"""What zeros in weights cost in quality, what they save in bytes, and that they save no time on CPUs.

    python -m benchmarks.prune_weights --models OUT_DIR --out FILE.md [--rounds 10] [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. The first 200 samples calibrate, without their labels; the
next ones judge (400 pairs of sentences, 2000 small pictures for ResNet-20 and 1000 for VGG-16). ``change`` is
the relative difference of the outputs from the float model's, ‖y − ŷ‖ / ‖y‖. Where all weights that stay
are as many, files are about as large, so they are only measured for ``outputs``. Times are of the processor
for one inference on one thread, the smallest of interleaved rounds, over the original's: they hold on a
machine that others use too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.rounding import accuracy, answers, spearman
from benchmarks.stored_weights import _processor_ms, onnx_runtime, openvino
from hasten import methods
from hasten.core.data import Calibration, StoreWriter
from hasten.core.target import cpu_name

CALIBRATION, THREADS, BATCH = 200, 2, 10
JUDGED = {"resnet20": 2000, "vgg16": 1000, "minilm": 400}
PATTERNS: tuple[dict[str, Any], ...] = (
    {"sparsity": 0.5},
    {"sparsity": 0.75},
    {"sparsity": 0.9},
    {"pattern": "2:4"},
)
WAYS: tuple[dict[str, Any], ...] = (
    {"importance": "l2"},
    {"importance": "wanda"},
    {"importance": "l2", "solve": True},
    {"importance": "outputs"},
)
HEAVY = frozenset({"vgg16"})
"""Models for which ``solve`` and ``scope: global`` are left out: each takes as long as ``outputs``."""
CODES = {8: {"bits": 8}, 4: {"bits": 4, "group": 16}}
COLUMNS = (
    *("model", "metric", "n", "zeros", "importance", "change", "quality", "lost"),
    *("zst MB: float32", "8 bits", "4 bits", "quality in 4 bits", "ORT", "OV", "seconds"),
)
HEAD = f"""# Zeros in weights

`prune_weights` after `optimize_graph` on every layer, {CALIBRATION} samples calibrate, nothing is trained;
judged on `n` others, computed by ONNX Runtime. `change`: ‖y − ŷ‖ / ‖y‖ of the outputs. `zst MB`: of the
`.onnx.zst` file, as it is and with `compress_weights` in 8 bits, and in 4 bits with groups of 16, behind it;
`quality in 4 bits`: of the last. `ORT`, `OV`: time of an inference over the original's, ONNX Runtime and
OpenVINO, processor time on one thread ({cpu_name()}). `seconds`: to apply the method, on {THREADS} threads
of a busy machine. Written by `benchmarks/prune_weights.py`.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}"""


def main() -> None:
    """Prune, judge, weigh, time, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("names", nargs="*", choices=[*JUDGED, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = HEAD.splitlines()
    for name in arguments.names or JUDGED:
        with tempfile.TemporaryDirectory() as work:
            case = Case.read(name, arguments.models / name, Path(work))
            for line in case.rows(arguments.rounds):
                lines.append(line)
                print(line, flush=True)
                arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Case:
    """A model without superfluous operators, and what judges it."""

    name: str
    clean: hasten.Graph
    context: methods.Context
    unseen: dict[str, Any]
    labels: Any

    @classmethod
    def read(cls, name: str, folder: Path, work: Path) -> Case:
        """The model of this name in its folder; ``work`` is an empty folder."""
        graph = hasten.read(folder / "model.onnx")
        with np.load(folder / "data.npz") as file:
            data = {key: file[key][: CALIBRATION + JUDGED[name]] for key in file.files}
        inputs = [spec.name for spec in graph.inputs]
        writer = StoreWriter(work / "store", inputs)
        for i in range(CALIBRATION):
            writer.append({key: data[key][i] for key in inputs})
        calibration = Calibration(writer.close(), range(CALIBRATION))
        context = methods.Context(calibration=calibration, work=work, threads=THREADS, batch=BATCH)
        clean = methods.apply(hasten.Recipe(["optimize_graph"]), graph, context).graph
        unseen = {key: data[key][CALIBRATION:] for key in inputs}
        return cls(name, clean, context, unseen, data["labels"][CALIBRATION:])

    def rows(self, rounds: int) -> Iterator[str]:
        """The rows of the table."""
        metric = "Spearman" if self.name == "minilm" else "accuracy"
        start = f"| {self.name} | {metric} | {len(self.labels)} |"
        wanted = answers(self.clean, self.unseen)
        whole = self._judged(wanted)
        yield f"{start} none | | | {whole:.4f} | | {self._sizes(self.clean)} | | | |"
        for pattern in PATTERNS:
            for way in self._ways(pattern):
                began = time.monotonic()
                made = self._applied(self.clean, "prune_weights", pattern | way)
                seconds = time.monotonic() - began
                given = answers(made, self.unseen)
                found = self._judged(given)
                change = float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))
                rest = " | | | | | "
                if way == {"importance": "outputs"}:
                    first, second = self._times(made, rounds)
                    rest = f" {self._sizes(made)} | {first:.3f} | {second:.3f} "
                yield (
                    f"{start} {_zeros(pattern)} | {_words(way)} | {change:.4f} | {found:.4f} "
                    f"| {whole - found:+.4f} |{rest}| {seconds:.0f} |"
                )

    def _ways(self, pattern: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for way in WAYS:
            if "solve" not in way or self.name not in HEAVY:
                yield way
        if "sparsity" in pattern and self.name not in HEAVY:
            yield {"importance": "outputs", "scope": "global"}

    def _judged(self, answers: Any) -> float:
        return (spearman if self.name == "minilm" else accuracy)(answers, self.labels)

    def _applied(self, graph: hasten.Graph, method: str, params: dict[str, Any]) -> hasten.Graph:
        return methods.apply(hasten.Recipe([hasten.Step(method, params)]), graph, self.context).graph

    def _sizes(self, graph: hasten.Graph) -> str:
        """Megabytes as it is, in 8 and in 4 bits, and the quality of the last."""
        coded = {bits: self._applied(graph, "compress_weights", params) for bits, params in CODES.items()}
        found = self._judged(answers(coded[4], self.unseen))
        sizes = (f"{_megabytes(g):.2f}" for g in (graph, *coded.values()))
        return f"{' | '.join(sizes)} | {found:.4f}"

    def _times(self, made: hasten.Graph, rounds: int) -> tuple[float, float]:
        """The time of an inference over the original's: ONNX Runtime and OpenVINO."""
        one = {key: array[:1] for key, array in self.unseen.items()}
        times: dict[tuple[str, int], list[float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            runs = {}
            for which, graph in (("before", self.clean), ("after", made)):
                path = Path(folder) / f"{which}.onnx"
                graph.write(path)
                runs[which] = (onnx_runtime(path)[0], openvino(path)[0])
            for _ in range(rounds):
                for which, pair in runs.items():
                    for runtime, run in enumerate(pair):
                        times.setdefault((which, runtime), []).append(_processor_ms(run, one))
        first, second = (min(times["after", r]) / min(times["before", r]) for r in (0, 1))
        return first, second


def _zeros(pattern: dict[str, Any]) -> str:
    return str(pattern["pattern"]) if "pattern" in pattern else f"{100 * pattern['sparsity']:.0f} %"


def _words(way: dict[str, Any]) -> str:
    more = "".join(f", {key}: {value}".lower() for key, value in way.items() if key != "importance")
    return f"`{way['importance']}`{more}"


def _megabytes(graph: hasten.Graph) -> float:
    with tempfile.TemporaryDirectory() as folder:
        (path,) = graph.write(Path(folder) / "model.onnx.zst")
        return path.stat().st_size / 1e6


if __name__ == "__main__":
    main()
