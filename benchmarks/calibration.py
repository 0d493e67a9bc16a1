"""What does it take to calibrate? Seconds and memory of ``quantize_static`` on 300 pictures.

    python -m benchmarks.calibration --models OUT_DIR --out FILE.md [NAME]

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. Each row is a process of its own, which loads the model
and the samples first. Memory is what its resident size grows by at most while the method is applied, looked
at every 10 ms; seconds are of the method alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

import hasten
from hasten import data, methods
from hasten.core.data import Calibration
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.target import usable_cores
from hasten.methods import Context

SAMPLES = 300
ROWS: tuple[dict[str, Json], ...] = (
    {"range": "minmax"},
    {"range": "percentile"},
    {"range": "mse"},
    {"range": "entropy"},
    {"range": "outputs"},
    {"range": "minmax", "rounding": "outputs"},
)


def main() -> None:
    """Calibrate in each way and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("name", nargs="?", default="efficientnet_lite0")
    arguments = parser.parse_args()
    folder = arguments.models / arguments.name
    lines = [
        "# What calibrating takes",
        "",
        f"`quantize_static` of {arguments.name} after `optimize_graph`, {SAMPLES} samples, "
        f"{usable_cores()} threads. Written by `benchmarks/calibration.py`,",
        "which says how it measures.",
        "",
        "| range | rounding | seconds | memory beyond the model's |",
        "|---|---|---|---|",
    ]
    context = multiprocessing.get_context("spawn")
    for params in ROWS:
        with context.Pool(1) as pool:
            seconds, grown = pool.apply(calibrated, (folder, params))
        rounding = params.get("rounding", "nearest")
        lines.append(f"| `{params['range']}` | `{rounding}` | {seconds:.1f} | {grown / 2**20:.0f} MiB |")
        print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def calibrated(folder: Path, params: dict[str, Json]) -> tuple[float, int]:
    """Seconds that the method takes, and the bytes by which this process grows meanwhile."""
    graph = hasten.read(folder / "model.onnx")
    with tempfile.TemporaryDirectory(prefix="hasten-calibration-") as name:
        work = Path(name)
        store, _ = data.ingest(folder / "data.npz", graph.inputs, work / "store", seed=0)
        context = Context(
            calibration=Calibration(store, range(SAMPLES)), work=work, threads=usable_cores(), batch=1
        )
        clean = methods.apply(Recipe((Step("optimize_graph"),)), graph, context).graph
        step = Step("quantize_static", {**params, "samples": SAMPLES})
        peak = Peak()
        began = time.monotonic()
        with peak:
            methods.apply(Recipe((step,)), clean, context)
        return time.monotonic() - began, peak.grown


class Peak:
    """While it is entered: by how many bytes this process has grown at most."""

    def __init__(self) -> None:
        self.grown = 0
        self._process = psutil.Process()
        self._start = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.grown = max(self.grown, self._process.memory_info().rss - self._start)


if __name__ == "__main__":
    main()
