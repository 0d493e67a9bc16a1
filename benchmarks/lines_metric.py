"""Lines of text read right: the metric of a recognizer, after CTC's rule for joining its steps.

    python -m benchmarks.lines_metric --models OUT_DIR

writes ``OUT_DIR/ppocr_rec/lines.npz``: the samples with what the original reads in them as their labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_right"]

_BLANK = 0
_LONGEST = 64


def read_right(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.float64]:
    """1 for each line whose text is that of its label, 0 for the others; of shape (n,).

    `outputs` holds one array of scores (n, steps, characters); `labels` (n, 64) are characters, then -1.
    """
    (scores,) = outputs.values()
    return np.array(
        [np.array_equal(_text(line), label) for line, label in zip(scores, labels, strict=True)], np.float64
    )


def _text(scores: NDArray[Any]) -> NDArray[np.int64]:
    """A line's characters: runs of one best step joined, blanks dropped (Graves et al. 2006, section 3.1)."""
    best = scores.argmax(-1)
    starts = np.concatenate([[True], best[1:] != best[:-1]])
    kept = best[starts & (best != _BLANK)][:_LONGEST]
    return np.pad(kept, (0, _LONGEST - len(kept)), constant_values=-1)


def main() -> None:
    """Label the samples."""
    from hasten import read
    from hasten.graph.evaluate import Evaluator

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    folder = parser.parse_args().models / "ppocr_rec"
    evaluator = Evaluator(read(folder / "model.onnx"), threads=2)
    with np.load(folder / "data.npz") as file:
        x = file["x"]
    scores = [next(iter(evaluator.run({"x": line[None]}).values()))[0] for line in x]
    np.savez(folder / "lines.npz", x=x, labels=np.stack([_text(line) for line in scores]))


if __name__ == "__main__":
    main()
