"""How much memory does it take to store a large model's weights in 4 bits? ``hasten apply``, watched.

    python -m benchmarks.large_weights --gib 4 --work DIR --out FILE.md

``DIR`` needs room for the model (``benchmarks/large_model.py`` makes it) and the result. Memory is the sum of
the resident sizes of the command's process and all its children, looked at every 20 ms; pages of files that
are mapped count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

import hasten
from benchmarks.large_model import INNER, WIDTH, write
from hasten.graph.evaluate import Evaluator

RECIPE = "steps:\n  - compress_weights: {scheme: linear, bits: 4, group: 128}\n"


def main() -> None:
    """Make the model, compress it, compare the outputs, and write the log."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    blocks = max(1, round(arguments.gib * 2**30 / (2 * 4 * WIDTH * INNER)))
    write(work, blocks)
    (work / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    small = work / "small.onnx"
    hasten_command = str(Path(sys.executable).with_name("hasten"))
    command = [hasten_command, "apply", str(work / "model.onnx"), "--force"]
    command += ["--recipe", str(work / "recipe.yaml"), "-o", str(small)]
    began = time.monotonic()
    peak = watched(command)
    seconds = time.monotonic() - began
    before, after = _bytes(work / "model.onnx"), _bytes(small)
    lines = [
        "# A large model's weights in 4 bits",
        "",
        f"{blocks} blocks of MatMul, Relu, MatMul, Add with random weights; `compress_weights`, linear, "
        "4 bits, groups of 128.",
        "Written by `benchmarks/large_weights.py`, which says how memory is looked at.",
        "",
        "| | |",
        "|---|---|",
        f"| before | {before / 2**30:.2f} GiB |",
        f"| after | {after / 2**30:.2f} GiB |",
        f"| peak memory of `hasten apply` | {peak / 2**30:.2f} GiB |",
        f"| seconds | {seconds:.0f} |",
        f"| relative error of the outputs, 4 samples | {_error(work / 'model.onnx', small, work):.4f} |",
    ]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def watched(command: list[str]) -> int:
    """Run a command to its end; the largest sum of resident bytes of it and its children."""
    process = subprocess.Popen(command)
    root = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        total = 0
        try:
            for each in (root, *root.children(recursive=True)):
                total += each.memory_info().rss
        except psutil.NoSuchProcess:
            pass  # one of them ended while it was looked at
        peak = max(peak, total)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"hasten apply ended with {process.returncode}")
    return peak


def _bytes(path: Path) -> int:
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def _error(model: Path, small: Path, work: Path) -> float:
    with np.load(work / "data.npz") as file:
        x = file["x"][:4]
    found = []
    for path in (model, small):
        evaluator = Evaluator(hasten.read(path), threads=2)
        found.append(next(iter(evaluator.run({"x": x}).values())))
    return float(np.linalg.norm(found[0] - found[1]) / np.linalg.norm(found[0]))


if __name__ == "__main__":
    main()
