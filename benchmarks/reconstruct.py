"""What block-wise reconstruction wins back after rounding weights to 4 bits.

    python -m benchmarks.reconstruct --models OUT_DIR --out FILE.md [--threads N] [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. The first 200 samples calibrate and train, without their
labels; all others judge. Activations have 8 bits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import hasten
from benchmarks.rounding import CALIBRATION, MODELS, case, quantize

HEAD = f"""# Block-wise reconstruction in 4 bits

`optimize_graph`, `quantize_static` (`weights: int4`, activations of 8 bits) and `reconstruct` with its
defaults. {CALIBRATION} samples calibrate and train, without labels; judged on all other samples, computed by
ONNX Runtime. `blocks`: those better on samples held back, of all. `seconds`: of the processor, of both
steps, summed over cores. Written by `benchmarks/reconstruct.py`.

| model | metric | n | rounding | reconstruct | quality | lost | blocks | seconds |
|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Quantize, reconstruct, judge, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = HEAD.splitlines()
    for name in arguments.names or MODELS:
        for line in rows(name, arguments.models / name, arguments.threads):
            lines.append(line)
            print(line, flush=True)
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows(name: str, folder: Path, threads: int) -> Iterator[str]:
    """The rows of one model."""
    known = case(name, folder)
    whole = known.quality(known.clean)
    begin = f"| {name} | {known.metric} | {len(known.labels)} |"
    yield f"{begin} float32 | | {whole:.4f} | | | |"
    for rounding in ("nearest", "outputs"):
        for learned in (False, True):
            steps = [quantize("int4", rounding), *([hasten.Step("reconstruct")] if learned else [])]
            began = time.process_time()
            change = hasten.apply(known.clean, hasten.Recipe(steps), known.seen, threads=threads)
            seconds = time.process_time() - began
            found = known.quality(change.graph)
            said = [note.split() for note in change.notes if note.startswith("reconstruct:")]
            blocks = f"{said[0][1]} of {said[0][3]}" if said else ""
            yield (
                f"{begin} {rounding} | {'yes' if learned else 'no'} | {found:.4f} | {whole - found:+.4f} "
                f"| {blocks} | {seconds:.0f} |"
            )


if __name__ == "__main__":
    main()
