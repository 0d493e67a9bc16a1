"""What removing channels and heads costs in quality and gains in speed, without labels and without training.

    python -m benchmarks.prune_channels --models OUT_DIR --out FILE.md [--threads N] [NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. The first 200 samples are looked at, without their labels;
all others judge. Latency is OpenVINO's, one sample, in the same rounds: of the narrow model over the whole
one, both in float32, and both in int8.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import hasten
from benchmarks.rounding import CALIBRATION, Case, case
from benchmarks.timings import ratio, timed
from hasten.core.target import cpu_name, usable_cores
from hasten.graph.cost import total_macs

SHARES = (0.85, 0.7, 0.5)
MODELS = ("resnet20", "vgg16", "efficientnet_lite0", "minilm")
INT8 = hasten.Step("quantize_static", {"rounding": "outputs", "layout": "openvino"})
HEAD = f"""# Narrower layers

`prune_channels` after `optimize_graph` with its defaults, nothing trained. {CALIBRATION} samples are looked
at, without labels; judged on all other samples, computed by ONNX Runtime. `fit: no` leaves weights as they
are. `faster`: on OpenVINO ({cpu_name()}, {usable_cores()} threads, batch 1), over the whole model in the same
precision and the same rounds, with its 95 % interval. `seconds`: of the processor, summed over cores. Written
by `benchmarks/prune_channels.py`.

| model | metric | n | recipe | MACs left | quality | lost | float32 faster | int8 faster | seconds |
|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Prune, judge, time, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="some of the models; all by default")
    arguments = parser.parse_args()
    lines = HEAD.splitlines()
    for name in arguments.names or MODELS:
        for line in rows(case(name, arguments.models / name), arguments.threads):
            lines.append(line)
            print(line, flush=True)
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows(known: Case, threads: int) -> Iterator[str]:
    """The rows of one model."""
    one = {key: array[:1] for key, array in known.seen.items()}
    whole, macs = known.quality(known.clean), total_macs(known.clean, one)
    begin = f"| {known.name} | {known.metric} | {len(known.labels)} |"
    yield f"{begin} whole | 100 % | {whole:.4f} | | | | |"
    first = hasten.Step("prune_channels", {"macs": SHARES[0], "fit": False})
    steps = [first, *(hasten.Step("prune_channels", {"macs": share}) for share in SHARES)]
    made = []
    for step in steps:
        began = time.process_time()
        graph = hasten.apply(known.clean, hasten.Recipe([step]), known.seen, threads=threads).graph
        made.append((step, graph, time.process_time() - began))
    graphs = [known.clean, *(graph for _, graph, _ in made)]
    floats = timed(graphs, known.seen, "openvino", threads)
    rounded = [hasten.apply(g, hasten.Recipe([INT8]), known.seen, threads=threads).graph for g in graphs]
    integers = timed(rounded, known.seen, "openvino", threads)
    for (step, graph, seconds), in_floats, in_int8 in zip(made, floats[1:], integers[1:], strict=True):
        told = f"macs {step.params['macs']}" + ("" if step.params.get("fit", True) else ", fit: no")
        found = known.quality(graph)
        yield (
            f"{begin} {told} | {total_macs(graph, one) / macs:.1%} | {found:.4f} | {whole - found:+.4f} "
            f"| {ratio(in_floats)} | {ratio(in_int8)} | {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
