"""What each scheme of compress_weights gains and costs: the table in its card.

    python -m benchmarks.stored_weights --models OUT_DIR --out FILE.md [--rounds 8] [--only NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. Every version runs on one thread, one sample at a time, in
interleaved rounds; what is timed is the processor time of this process, which holds on a machine that others
use too. Quality is Spearman on 400 pairs for the sentence encoder and accuracy on 300 pictures elsewhere, of
ONNX Runtime's outputs. ``left`` counts the operators that ONNX Runtime still decodes with at every inference,
and ``integers`` those that multiply codes.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import zstandard

from benchmarks.sts_metric import spearman
from hasten import methods
from hasten.core.recipe import Recipe
from hasten.core.target import cpu_name
from hasten.graph import Graph

Run: TypeAlias = Callable[[dict[str, Any]], Any]
MODELS = ("minilm_encoder", "efficientnet_lite0")
_SAMPLES = {"minilm_encoder": 800, "efficientnet_lite0": 300}
_DECODING = ("DequantizeLinear", "Cast", "Gather", "Mul", "Sub", "Add")
VERSIONS: tuple[dict[str, Any] | None, ...] = (
    None,
    {},
    {"bits": 4},
    {"bits": 4, "group": 32},
    {"bits": 4, "group": 32, "symmetric": False},
    {"bits": 2, "group": 32, "symmetric": False},
    {"scheme": "mean_variance"},
    {"scheme": "mean_variance", "bits": 4},
    {"scheme": "log2"},
    {"scheme": "clusters"},
    {"scheme": "clusters", "bits": 2},
    {"scheme": "float8_e4m3"},
    {"scheme": "float8_e5m2"},
    {"scheme": "float4", "group": 32},
    {"scheme": "mxfp8"},
    {"scheme": "mxfp4"},
)


def onnx_runtime(path: Path) -> tuple[Run, Counter[str]]:
    """The first output, on one thread, and the operators that the runtime made of the graph."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    settings.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    nodes = onnx.load(settings.optimized_model_filepath, load_external_data=False).graph.node
    return lambda feeds: session.run(None, feeds)[0], Counter(node.op_type for node in nodes)


def openvino(path: Path) -> tuple[Run, Counter[str]]:
    """The same of OpenVINO; of the operators those of matrix products and convolutions, with their types."""
    properties = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(str(path), "CPU", properties)
    request = compiled.create_infer_request()
    kinds: Counter[str] = Counter()
    for op in compiled.get_runtime_model().get_ops():
        about = {key: op.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")}
        if about["layerType"] in {"FullyConnected", "Convolution"}:
            kinds[about["runtimePrecision"]] += 1
    return lambda feeds: np.array(request.infer(feeds)[compiled.output(0)]), kinds


def table(name: str, models: Path, rounds: int) -> Iterator[str]:
    """The lines of one model's table; all versions are open at once."""
    data = np.load(models / name / "data.npz")
    base = Graph.open(models / name / "model.onnx")
    inputs = [spec.name for spec in base.inputs]
    rows = {key: data[key][: _SAMPLES[name]] for key in data.files}
    one = {key: rows[key][:1] for key in inputs}
    yield f"## {name}\n"
    yield "| parameters | MB | zstd MB | quality | ONNX Runtime ms | left | integers | OpenVINO ms | types |"
    yield "|---|---|---|---|---|---|---|---|---|"
    made: list[tuple[str, Run, Run]] = []
    facts: list[tuple[float, float, str, int, int, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        context = methods.Context(calibration=None, work=Path(folder))
        base = methods.apply(Recipe(["optimize_graph"]), base, context).graph
        plain: Counter[str] = Counter()
        for number, params in enumerate(VERSIONS):
            path = Path(folder) / f"{number}.onnx"
            steps = [] if params is None else [{"compress_weights": params}]
            methods.apply(Recipe(steps), base, context).graph.write(path)
            packed = len(zstandard.ZstdCompressor(level=19).compress(path.read_bytes()))
            (first, found), (second, kinds) = onnx_runtime(path), openvino(path)
            plain = plain or found
            left = sum(max(found[kind] - plain[kind], 0) for kind in _DECODING)
            types = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            quality = _quality(name, first, rows, inputs)
            facts.append(
                (path.stat().st_size / 1e6, packed / 1e6, quality, left, found["MatMulNBits"], types)
            )
            made.append(("original" if params is None else json.dumps(params), first, second))
    times: dict[tuple[int, int], list[float]] = {}
    for _ in range(rounds):
        for number, (_, *runs) in enumerate(made):
            for which, run in enumerate(runs):
                times.setdefault((number, which), []).append(_processor_ms(run, one))
    for number, (label, *_) in enumerate(made):
        size, packed_size, quality, left, integers, types = facts[number]
        a, b = (min(times[number, which]) for which in (0, 1))
        yield (
            f"| `{label}` | {size:.1f} | {packed_size:.1f} | {quality} | {a:.2f} | {left} | {integers} "
            f"| {b:.2f} | {types} |"
        )
    yield ""


def _quality(name: str, run: Run, rows: dict[str, Any], inputs: list[str]) -> str:
    count = len(rows["labels"])
    parts = ({key: rows[key][i : i + 16] for key in inputs} for i in range(0, count, 16))
    found = np.concatenate([run(part) for part in parts]).astype(np.float64)
    if name == "minilm_encoder":
        return f"{spearman({'y': found}, rows['labels']):.4f}"
    return f"{100 * np.mean(found.reshape(count, -1).argmax(axis=1) == rows['labels']):.1f} %"


def _processor_ms(run: Run, feeds: dict[str, Any], inferences: int = 3) -> float:
    run(feeds)
    began = time.process_time()
    for _ in range(inferences):
        run(feeds)
    return 1e3 * (time.process_time() - began) / inferences


def main() -> None:
    """Write one table a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", action="append", choices=MODELS)
    given = parser.parse_args()
    lines = [
        "# Weights stored in few bits\n",
        f"Written by `python -m benchmarks.stored_weights --rounds {given.rounds}`; {cpu_name()}, Python",
        f"{platform.python_version()}, ONNX Runtime {ort.__version__}, OpenVINO "
        f"{str(ov.__version__).partition('-')[0]}. Processor time of one inference on one thread,",
        "smallest of the rounds; the original is what optimize_graph makes of it. `left`: operators more",
        "than in the original that decode at every inference; `integers`: products on codes; `types`:",
        "OpenVINO's matrix products and convolutions by the type of their weights.\n",
    ]
    for name in given.only or MODELS:
        lines += table(name, given.models, given.rounds)
        given.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
