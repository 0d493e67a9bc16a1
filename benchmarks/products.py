"""Are products with constant matrices faster in int8 as convolutions?

    python -m benchmarks.products --models OUT_DIR --out FILE.md [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. 200 samples calibrate, all others judge, computed by ONNX
Runtime. Latency is of one sample, each runtime's versions in the same rounds. Whether the CPU multiplies
bytes (VNNI) decides: the page says which CPU it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import hasten
from benchmarks.rounding import CALIBRATION, Case, case
from benchmarks.timings import LAYOUTS, ratio, timed
from hasten.core.target import cpu_name, sums_saturate, usable_cores

_MODELS = ("minilm", "efficientnet_lite0")


def main() -> None:
    """Quantize, judge, time, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", choices=[*_MODELS, []], help="some; all by default")
    arguments = parser.parse_args()
    able = "without" if sums_saturate() else "with"
    lines = [
        "# Products as convolutions",
        "",
        f"int8 by `quantize_static` with rounding for the outputs; {CALIBRATION} samples calibrate, all",
        f"others judge, by ONNX Runtime. {cpu_name()} {able} VNNI, {usable_cores()} threads, batch 1;",
        "`faster`: than float32 on the same runtime in the same rounds, with its 95 % interval. Written by",
        "`benchmarks/products.py`.",
        "",
        "| model | runtime | version | quality | latency | faster |",
        "|---|---|---|---|---|---|",
    ]
    for name in arguments.names or _MODELS:
        for line in _rows(case(name, arguments.models / name)):
            lines.append(line)
            print(line, flush=True)
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(known: Case) -> Iterator[str]:
    for runtime, layout in LAYOUTS.items():
        told, graphs = ["float32"], [known.clean]
        for products in ("kept", "convolutions"):
            params = {"rounding": "outputs", "layout": layout, "products": products}
            recipe = hasten.Recipe([hasten.Step("quantize_static", params)])
            graphs.append(hasten.apply(known.clean, recipe, known.seen, threads=usable_cores()).graph)
            told.append(f"int8, products {products}")
        timings = timed(graphs, known.seen, runtime, usable_cores(), limit_s=60.0)
        for what, graph, timing in zip(told, graphs, timings, strict=True):
            latency = f"{timing.latency_ms.median:.2f} ms"
            begin = f"| {known.name} | {runtime} | {what} | {known.quality(graph):.4f} | {latency}"
            yield f"{begin} | {ratio(timing) if what != 'float32' else ''} |"


if __name__ == "__main__":
    main()
