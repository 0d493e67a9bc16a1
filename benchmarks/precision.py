"""What 8 and 16 bits without calibration gain: the tables in the cards of quantize_dynamic and cast.

    python -m benchmarks.precision --models OUT_DIR --out FILE.md [--rounds 12] [--only NAME]...

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. Every version runs on one thread, one sample at a time, in
interleaved rounds, and what is timed is the processor time of this process: it holds on a machine that
others use too, where wall time does not. Quality is Spearman for the sentence encoder, and the ratio of
signal to error of the outputs, in dB, elsewhere.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
from onnx import numpy_helper as helper

from benchmarks.sts_metric import spearman
from hasten import methods
from hasten.core.recipe import Recipe
from hasten.core.target import cpu_name
from hasten.graph import Graph
from hasten.graph.evaluate import runtime_errors

_INFERENCES = 5
_SAMPLES = 2400
_CLEAN: list[Any] = ["optimize_graph"]
_GROUPS = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 384}
_BF16 = {"INFERENCE_PRECISION_HINT": "bf16"}
Run: TypeAlias = Callable[[dict[str, Any]], Any]
MODELS = ("minilm_encoder", "magika", "efficientnet_lite0")


@dataclass(frozen=True)
class Version:
    """One row: how the file is made, which runtime opens it, and with which properties."""

    label: str
    runtime: str
    steps: tuple[Any, ...] = ()
    peer: dict[str, Any] | None = None
    properties: dict[str, Any] = field(default_factory=dict)


def originals() -> Iterator[Version]:
    """What the others are compared with, in their rounds."""
    yield Version("original", "ONNX Runtime")
    yield Version("original", "OpenVINO")
    yield Version("original, bf16 hint", "OpenVINO", properties=_BF16)


def eight_bits() -> Iterator[Version]:
    """The forms of quantize_dynamic, and the peer."""
    yield from originals()
    yield Version("onnxruntime quantize_dynamic", "ONNX Runtime", peer={})
    yield Version("onnxruntime quantize_dynamic, per channel", "ONNX Runtime", peer={"per_channel": True})
    stored = {"quantize_dynamic": {"form": "weights"}}
    for runtime in ("ONNX Runtime", "OpenVINO"):
        yield Version("integer", runtime, ("quantize_dynamic",))
        yield Version("optimize_graph, integer", runtime, (*_CLEAN, "quantize_dynamic"))
        yield Version("weights", runtime, (stored,))
    yield Version("weights, groups of 384", "OpenVINO", (stored,), properties=_GROUPS)
    yield Version("optimize_graph, weights, groups of 384", "OpenVINO", (*_CLEAN, stored), properties=_GROUPS)
    both = {**_GROUPS, **_BF16}
    yield Version("weights, groups of 384, bf16 hint", "OpenVINO", (stored,), properties=both)


def sixteen_bits() -> Iterator[Version]:
    """The forms of cast."""
    yield from originals()
    for what in ("weights", "compute"):
        for dtype in ("float16", "bfloat16"):
            step = {"cast": {"what": what, "dtype": dtype}}
            for runtime in ("ONNX Runtime", "OpenVINO"):
                yield Version(f"cast {what} {dtype}", runtime, (step,))


def make(version: Version, model: Path, folder: Path) -> Path:
    """The ONNX file of a version, written once."""
    if version.peer is None and not version.steps:
        return model
    path = folder / f"{version.label}.onnx"
    if path.exists():
        return path
    if version.peer is not None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(str(model), str(path), weight_type=QuantType.QInt8, **version.peer)
        return path
    context = methods.Context(calibration=None, work=folder)
    methods.apply(Recipe(version.steps), Graph.open(model), context).graph.write(path)
    return path


def opened(version: Version, path: Path) -> Run:
    """A function that runs the first output on one thread; raises what the runtime raises."""
    if version.runtime == "ONNX Runtime":
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 4
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        return lambda feeds: session.run(None, feeds)[0]
    properties = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(str(path), "CPU", {**properties, **version.properties})
    request = compiled.create_infer_request()
    return lambda feeds: np.array(request.infer(feeds)[compiled.output(0)])


def compare(name: str, models: Path, rounds: int, versions: Sequence[Version]) -> Iterator[str]:
    """The lines of a table of one model; all its versions are open at once."""
    model, data = models / name / "model.onnx", np.load(models / name / "data.npz")
    inputs = [spec.name for spec in Graph.open(model).inputs]
    rows = {key: data[key][:_SAMPLES] for key in data.files}
    one = {key: rows[key][:1] for key in inputs}
    runs: dict[tuple[str, str], Run] = {}
    sizes: dict[tuple[str, str], int] = {}
    refused = set()
    with tempfile.TemporaryDirectory() as folder:
        for version in versions:
            path = make(version, model, Path(folder))
            key = (version.label, version.runtime)
            sizes[key] = path.stat().st_size
            try:
                runs[key] = opened(version, path)
            except runtime_errors():
                refused.add(key)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for number in range(rounds):
        for key in list(runs)[:: 1 if number % 2 else -1]:
            times[key].append(_processor_ms(runs[key], one))
    yield f"## {name}\n"
    yield "| version | runtime | smallest ms | median ms | quality | MB |\n|---|---|---|---|---|---|"
    judge = _judge(name, inputs, rows, next(iter(runs.values())))
    for key, size in sizes.items():
        start = f"| {key[0]} | {key[1]} |"
        if key in refused:
            yield f"{start} does not load | | | {size / 1e6:.1f} |"
            continue
        least, middle = min(times[key]), float(np.median(times[key]))
        yield f"{start} {least:.2f} | {middle:.2f} | {judge(runs[key])} | {size / 1e6:.1f} |"
    yield ""


def _one_layer(
    op_type: str, shape: tuple[int, ...], weights: list[tuple[int, ...]], **attributes: Any
) -> Any:
    """A model of one node with random weights, and an input for it."""
    rng = np.random.default_rng(0)
    stored = [
        helper.from_array((rng.normal(size=s) / np.sqrt(s[-1])).astype(np.float32), f"w{i}")
        for i, s in enumerate(weights)
    ]
    node = onnx.helper.make_node(op_type, ["x", *(w.name for w in stored)], ["y"], name="layer", **attributes)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    body = onnx.helper.make_graph([node], "layer", [x], [y], stored)
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return model, {"x": rng.normal(size=shape).astype(np.float32)}


def single_layers(rounds: int) -> Iterator[str]:
    """Layers alone in ONNX Runtime: where quantizing activations at run time pays, and where not."""
    yield "## single layers\n"
    yield "| layer | float ms | int8 ms |\n|---|---|---|"
    cases: list[tuple[str, Any, Version]] = []
    ours, theirs = Version("i", "ONNX Runtime", ("quantize_dynamic",)), Version("i", "ONNX Runtime", peer={})
    lstm = _one_layer("LSTM", (64, 1, 256), [(1, 1024, 256), (1, 1024, 256)], hidden_size=256)
    cases.append(("LSTM, 256 units, 64 steps", lstm, ours))
    for width in (64, 128, 256, 512):
        for rows in (1, 64):
            product = _one_layer("MatMul", (rows, width), [(width, width)])
            every = Version("i", "ONNX Runtime", ({"quantize_dynamic": {"min_elements": 0}},))
            cases.append((f"MatMul, {rows} × {width} by {width} × {width}", product, every))
    conv = _one_layer("Conv", (1, 128, 14, 14), [(128, 128, 3, 3)], pads=[1] * 4)
    cases.append(("Conv, 3 × 3, 128 to 128 channels, 14 × 14 (ConvInteger)", conv, theirs))
    for label, (model, feeds), version in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "float.onnx"
            onnx.save(model, path)
            pair = [opened(version, path), opened(version, make(version, path, Path(folder)))]
            times = [min(_processor_ms(run, feeds, 100) for _ in range(rounds)) for run in pair]
        yield f"| {label} | {times[0]:.4f} | {times[1]:.4f} |"
    yield ""


def _processor_ms(run: Run, feeds: dict[str, Any], inferences: int = _INFERENCES) -> float:
    """Median processor time of one inference in a round, after one to warm up."""
    run(feeds)
    seen = []
    for _ in range(inferences):
        began = time.process_time()
        run(feeds)
        seen.append(time.process_time() - began)
    return 1e3 * float(np.median(seen))


def _judge(name: str, inputs: list[str], rows: dict[str, Any], original: Run) -> Callable[[Run], str]:
    def outputs(run: Run, count: int) -> Any:
        parts = ({key: rows[key][i : i + 16] for key in inputs} for i in range(0, count, 16))
        return np.concatenate([run(part) for part in parts]).astype(np.float64)

    if name == "minilm_encoder":
        count = len(rows[inputs[0]])
        return lambda run: f"Spearman {spearman({'y': outputs(run, count)}, rows['labels'][:count]):.4f}"
    wanted = outputs(original, 64)

    def ratio(run: Run) -> str:
        wrong = np.square(outputs(run, 64) - wanted).sum()
        return f"{10 * np.log10(np.square(wanted).sum() / wrong):.0f} dB" if wrong else "equal"

    return ratio


def main() -> None:
    """Write one table a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", action="append", choices=MODELS)
    given = parser.parse_args()
    flags = f"{cpu_name()}, Python {platform.python_version()}, ONNX Runtime {ort.__version__}"
    lines = [
        "# 8 and 16 bits without calibration\n",
        f"Written by `python -m benchmarks.precision --rounds {given.rounds}`; {flags}, OpenVINO",
        f"{str(ov.__version__).partition('-')[0]}. Processor time of one inference on one thread.\n",
    ]
    parts = [single_layers(given.rounds)]
    for name in given.only or MODELS:
        for versions in (tuple(eight_bits()), tuple(sixteen_bits())):
            parts.append(compare(name, given.models, given.rounds, versions))
    for part in parts:
        lines += part
        given.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
