"""Print what ONNX Runtime makes of every prepared model: its quality, or what its outputs look like.

Usage: python benchmarks/check_models.py OUT_DIR [NAME]...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sts_metric import spearman

_Array = NDArray[Any]
_STS_PAIRS = 1200
_STEPS = 32
"""Positions of a line that ``ddddocr`` decides about; they come first in its output, before the batch."""


def _accuracy(output: _Array, labels: _Array, first: int = 0) -> str:
    hits = (output.argmax(1) == labels)[first:]
    return f"accuracy {100 * hits.mean():.2f} % on rows {first}-{len(labels) - 1}"


def _pair_spearman(output: _Array, labels: _Array) -> str:
    from scipy.stats import spearmanr

    rho = spearmanr(output[:_STS_PAIRS], labels[:_STS_PAIRS]).statistic
    return f"Spearman {rho:.4f} on the first {_STS_PAIRS} pairs"


def _row_spearman(output: _Array, labels: _Array) -> str:
    rho = spearman({"embedding": output[: 2 * _STS_PAIRS]}, labels[: 2 * _STS_PAIRS])
    return f"Spearman {rho:.4f} on the first {_STS_PAIRS} pairs"


def _decoded(output: _Array, labels: _Array) -> str:
    best = output.argmax(-1)
    letters = ((best != 0) & (np.diff(best, axis=1, prepend=0) != 0)).sum(1)
    return f"{letters.mean():.1f} characters a line, {(letters == 0).sum()} lines without any"


def _text_share(output: _Array, labels: _Array) -> str:
    found = (output > 0.3).mean((1, 2, 3))
    return f"text on {100 * found.mean():.1f} % of the area, {(found == 0).sum()} pictures without any"


def _kinds(output: _Array, labels: _Array) -> str:
    sure = (output.max(1) > 0.5).sum()
    return f"{len(set(output.argmax(1)))} kinds of files, {sure} rows with a score above 0.5"


def _boxes(output: _Array, labels: _Array) -> str:
    found = (output[:, 4:].max(1) > 0.2).any(1)
    return f"{found.sum()} pictures with a box scored above 0.2"


CHECKS: dict[str, Callable[[_Array, _Array], str]] = {
    "efficientnet_lite0": lambda output, labels: _accuracy(output, labels, 200),
    "minilm": _pair_spearman,
    "minilm_encoder": _row_spearman,
    "resnet20": _accuracy,
    "resnet56": _accuracy,
    "vgg16": _accuracy,
    "ppocr_rec": _decoded,
    "ppocr_det": _text_share,
    "ppocr_cls": _accuracy,
    "ddddocr": lambda output, labels: _decoded(output.reshape(-1, _STEPS, output.shape[-1]), labels),
    "magika": _kinds,
    "nudenet": _boxes,
}
"""Model name -> function (first output over all rows, labels) that words the result."""


def check(folder: Path, batch: int = 16) -> str:
    """Run all rows of data.npz through model.onnx and return one line about the first output."""
    with np.load(folder / "data.npz") as archive:
        arrays = dict(archive)
    labels = arrays.pop("labels", np.empty(0))
    ort.set_default_logger_severity(3)  # one model's own idea of its output's shape is wrong
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    rows = len(next(iter(arrays.values())))
    batch = 1 if session.get_inputs()[0].shape[0] == 1 else batch
    chunks = [{name: a[i : i + batch] for name, a in arrays.items()} for i in range(0, rows, batch)]
    output = np.concatenate([session.run(None, chunk)[0] for chunk in chunks])
    shapes = ", ".join(f"{name} {a.dtype}{list(a.shape)}" for name, a in arrays.items())
    return f"{folder.name}: {shapes}: {CHECKS[folder.name](output, labels)}"


def main() -> None:
    """Check the models named, or all that are in the folder."""
    parser = argparse.ArgumentParser(description="Print the quality of the prepared models.")
    parser.add_argument("out", type=Path, help="the folder that models.py wrote")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; all prepared ones by default")
    options = parser.parse_args()
    unknown = set(options.names) - set(CHECKS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    for name in options.names or [name for name in CHECKS if (options.out / name).is_dir()]:
        print(check(options.out / name), flush=True)


if __name__ == "__main__":
    main()
