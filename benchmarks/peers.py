"""hasten beside its peers' defaults, on the same data and in the same rounds.

    python -m benchmarks.peers --models OUT_DIR --weights DATA_DIR/models --out RESULTS_DIR

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. For each model: ``hasten optimize`` with a 1 % budget; the
original in ONNX Runtime, OpenVINO and, where there is a module, eager PyTorch; ONNX Runtime's
``quantize_static`` and ``quantize_dynamic`` and NNCF's ``quantize``, each with its defaults, on the same
calibration samples; then all of them in interleaved rounds, judged on the same holdout. Shapes are fixed
alike for everyone. ``--more`` adds what else the peers have to choose from: ONNX Runtime's calibration by
percentile and by entropy, NNCF's mixed preset and its accuracy control; and hasten's ``quantize_static`` of
the whole model, as the search tries it first. Writes ``<name>.json``, ``<name>.record.json`` (hasten's own
record) and ``table.md``; ``--only NAME`` does one model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.peers_table import table
from hasten import data as data_room
from hasten import loaders, measuring, methods, targets
from hasten.core.data import Roles, split
from hasten.core.errors import HastenError
from hasten.core.recipe import Recipe, Step
from hasten.core.record import Artifact, RunRecord, Scalar, Scorecard
from hasten.core.target import cpu_flags, usable_cores
from hasten.loaders.pt2 import SIGNATURE_SUFFIX
from hasten.measuring import Conditions, Subject
from hasten.methods import Context
from hasten.targets.files import artifact_of

_CALIBRATION_SAMPLES = 200


@dataclass(frozen=True)
class Case:
    """A model of the comparison: its metric (None: chosen), fixed shapes, and module where there is one."""

    name: str
    metric: str | None
    shapes: dict[str, tuple[int, ...]]
    module: Callable[[Path], Any] | None = None


def _efficientnet(weights: Path) -> Any:
    from benchmarks.torch_modules import efficientnet_lite0_module

    return efficientnet_lite0_module()


def _minilm(weights: Path) -> Any:
    from benchmarks.torch_modules import minilm_module

    return minilm_module()


def _resnet20(weights: Path) -> Any:
    from benchmarks.torch_modules import resnet20_module

    return resnet20_module(weights)


CASES = (
    Case("efficientnet_lite0", "accuracy", {"image": (1, 3, 224, 224)}, _efficientnet),
    Case("minilm", "spearman", {"input_ids": (1, 2, 64), "attention_mask": (1, 2, 64)}, _minilm),
    Case("resnet20", "accuracy", {"image": (1, 3, 32, 32)}, _resnet20),
    Case("ppocr_rec", None, {"x": (1, 3, 48, 320)}),
    Case("fashion_mnist", "accuracy", {"image": (1, 1, 28, 28)}),
    Case("resnet56", "accuracy", {"image": (1, 3, 32, 32)}),
    Case("vgg16", "accuracy", {"image": (1, 3, 32, 32)}),
    Case("nudenet", None, {"images": (1, 3, 320, 320)}),
    Case("ppocr_det", None, {"x": (1, 3, 640, 640)}),
    Case("magika", None, {}),
    Case("ppocr_cls", "accuracy", {"x": (1, 3, 48, 192)}),
    Case("ddddocr", None, {"input1": (1, 1, 64, 256)}),
)


def main() -> None:
    """Run the cases and write their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--more", action="store_true", help="the peers' other ways of calibrating, too")
    parser.add_argument("--time-budget", type=float, default=300.0, help="seconds for each search")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if not arguments.only or case.name in arguments.only:
            run(case, arguments)
    (arguments.out / "table.md").write_text(table(arguments.out), encoding="utf-8")


def source_of(case: Case, models: Path) -> tuple[Path, Path]:
    """Model and data of a case; the bundled one lies in examples/."""
    folder = models / case.name
    if case.name == "fashion_mnist":
        folder = Path(__file__).parents[1] / "examples" / case.name
    return folder / "model.onnx", folder / "data.npz"


def run(case: Case, arguments: argparse.Namespace) -> None:
    """One case: search, build the peers, measure all side by side, write the results."""
    print(f"== {case.name}", flush=True)
    out: Path = arguments.out
    # Before the search, so that weights which are not where they were said to be cost no time.
    module = case.module(arguments.weights) if case.module else None
    model, samples = source_of(case, arguments.models)
    with tempfile.TemporaryDirectory(prefix="hasten-peers-") as name:
        work = Path(name)
        began = time.monotonic()
        result = hasten.optimize(
            model,
            samples,
            metric=case.metric,
            budget=hasten.Budget(max_drop=0.01, time_s=arguments.time_budget),
            shapes=case.shapes,
            folder=work / "run",
            listener=lambda event: print(
                f"  {event.what}" if event.trial else "", end="\n" if event.trial else ""
            ),
        )
        search_s = time.monotonic() - began
        print(result, flush=True)
        graph = hasten.read(model, shapes=case.shapes)
        fixed = work / "fixed.onnx"
        graph.write(fixed)
        store, _ = data_room.ingest(samples, graph.inputs, work / "store", seed=0)
        roles = split(store, 0)
        roles.save()
        made = Peers(work)
        peers(made, case, fixed, roles, module)
        if arguments.more:
            whole_in_int8(made, fixed, roles)
            other_ways(made, case, fixed, roles, arguments.time_budget)
        subjects = made.subjects
        subjects.append(_saved(result.record, result.folder))
        cards = measuring.compare(
            subjects,
            roles.holdout,
            case.metric,
            Conditions(time_limit_s=15.0, rounds_max=100),
            work / "compare",
        )
        rows = [
            {"name": s.name, **(c.model_dump(mode="json") if isinstance(c, Scorecard) else {"error": str(c)})}
            for s, c in zip(subjects, cards, strict=True)
        ]
        for row in rows:
            row["build_seconds"] = made.seconds.get(
                str(row["name"]), search_s if row["name"] == "hasten" else None
            )
        rows += [{"name": name, "error": error} for name, error in made.failures]
    record = result.record
    found = {
        "model": case.name,
        "search_seconds": round(search_s, 1),
        "verdict": record.headline,
        "machine": record.machine.model_dump(mode="json"),
        "threads": usable_cores(),
        "shapes": {k: list(v) for k, v in case.shapes.items()},
        "rows": rows,
    }
    (out / f"{case.name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / f"{case.name}.record.json").write_text(record.to_json(), encoding="utf-8")
    print(table(out), flush=True)


def _saved(record: RunRecord, folder: Path) -> Subject:
    trial = record.trial(record.best.trial) if record.best else record.baseline
    assert trial.artifact is not None
    return Subject(trial.artifact, folder, "hasten")


@dataclass
class Peers:
    """What the peers made, how long each took, and what could not be made, with the reason."""

    work: Path
    subjects: list[Subject] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, build: Callable[[], Path], **options: Scalar) -> None:
        """Build a subject; a peer that fails is a row with its error."""
        began = time.monotonic()
        try:
            artifact, folder = artifact_of(build(), {"threads": usable_cores(), **options})
        except (
            HastenError,
            TimeoutError,
            RuntimeError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AssertionError,
        ) as error:
            said = next(iter(str(error).splitlines()), "no reason given")
            self.failures.append((name, f"{type(error).__name__}: {said[:200]}"))
            return
        self.seconds[name] = round(time.monotonic() - began, 1)
        self.subjects.append(Subject(artifact, folder, name))


def peers(made: Peers, case: Case, fixed: Path, roles: Roles, module: Any) -> None:
    """The original in each runtime and the peers' defaults."""
    work, feeds = made.work, _feeds(fixed, roles)
    made.add("ONNX Runtime fp32", lambda: fixed)
    made.add("OpenVINO fp32", lambda: _openvino_ir(fixed, work / "ov_fp32"))
    made.add("ONNX Runtime quantize_static", lambda: _ort_static(fixed, feeds, work / "ort_static"))
    made.add("ONNX Runtime quantize_dynamic", lambda: _ort_dynamic(fixed, work / "ort_dynamic"))
    # OpenVINO's own default precision: bfloat16 where the CPU has it.
    default: dict[str, Scalar] = {"precision": "bfloat16"} if "avx512_bf16" in cpu_flags() else {}
    made.add("OpenVINO, its default precision", partial(_path, work / "ov_fp32" / "model.xml"), **default)
    kinds = {"NNCF quantize": False} | ({"NNCF quantize, transformer": True} if case.name == "minilm" else {})
    for name, transformer in kinds.items():
        folder = work / f"nncf_{transformer}"
        made.add(name, partial(_nncf, fixed, feeds, folder, transformer=transformer))
        if default:
            made.add(f"{name}, rest in bfloat16", partial(_path, folder / "model.xml"), **default)
    if module is not None:
        program = _program(module, feeds[0], [o.name for o in loaders.read(fixed).graph.outputs], work)
        artifact = Artifact(target="torch", entry=program.name, options={"threads": usable_cores()})
        made.subjects.append(Subject(artifact, program.parent, "PyTorch eager"))


def other_ways(made: Peers, case: Case, fixed: Path, roles: Roles, time_s: float) -> None:
    """What else the peers offer for post-training quantization in 8 bits, in the time hasten's search has."""
    from benchmarks.accuracy_control import accuracy_control

    work, feeds = made.work, _feeds(fixed, roles)
    for way in ("Percentile", "Entropy"):
        name = f"ONNX Runtime quantize_static, {way.lower()}"
        made.add(name, partial(_ort_static, fixed, feeds, work / f"ort_{way}", way))
    made.add("NNCF quantize, mixed", partial(_nncf, fixed, feeds, work / "nncf_mixed", preset="MIXED"))
    folder = work / "nncf_control"
    arguments = fixed, feeds, roles.calibration.store.folder, case.metric, folder
    controlled = partial(_in_time, time_s, accuracy_control, *arguments)
    made.add("NNCF quantize, accuracy control", lambda: controlled() or folder / "model.xml")


def whole_in_int8(made: Peers, fixed: Path, roles: Roles) -> None:
    """Whole int8 of hasten's own: every layer that qualifies, for either runtime, without a search."""
    for target, name in (("openvino", "OpenVINO"), ("onnxruntime", "ONNX Runtime")):
        layout = "openvino" if target == "openvino" else "both"
        static = Step(
            "quantize_static", {"rounding": "outputs", "layout": layout, "samples": _CALIBRATION_SAMPLES}
        )
        build = partial(_applied, fixed, roles, made.work / f"whole_{target}", target, static)
        made.add(f"hasten's int8 of all layers, {name}", build)


def _applied(model: Path, roles: Roles, folder: Path, target: str, step: Step) -> Path:
    folder.mkdir()
    context = Context(calibration=roles.calibration, work=folder, threads=usable_cores())
    change = methods.apply(Recipe((Step("optimize_graph"), step)), hasten.read(model), context)
    artifact = targets.find(target).export(change.graph, folder, targets.options(target, {}))
    return folder / artifact.entry


def _in_time(limit_s: float, function: Callable[..., object], *arguments: object) -> None:
    """Call in a process of its own, which is ended when the time is over; raises TimeoutError then."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join(limit_s)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"not done after {limit_s:.0f} s")
    if process.exitcode:
        raise RuntimeError(f"ended with status {process.exitcode}")


def _feeds(fixed: Path, roles: Roles) -> list[dict[str, Any]]:
    inputs = loaders.read(fixed).graph.inputs
    return [batch.feeds(inputs) for batch in roles.calibration.take(_CALIBRATION_SAMPLES).batches(1)]


def _path(path: Path) -> Path:
    return path


def _openvino_ir(model: Path, folder: Path) -> Path:
    import openvino as ov

    folder.mkdir()
    ov.save_model(ov.convert_model(model), folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def _ort_static(model: Path, feeds: list[dict[str, Any]], folder: Path, way: str = "MinMax") -> Path:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest: Iterator[dict[str, Any]] = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._rest, None)

    folder.mkdir()
    try:
        quant_pre_process(str(model), str(folder / "prepared.onnx"))
    except Exception as error:  # what it raises is no narrower
        if "symbolic shape inference" not in str(error):
            raise
        quant_pre_process(str(model), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
    quantize_static(
        str(folder / "prepared.onnx"),
        str(folder / "model.onnx"),
        Reader(),
        calibrate_method=getattr(CalibrationMethod, way),
    )
    return folder / "model.onnx"


def _ort_dynamic(model: Path, folder: Path) -> Path:
    from onnxruntime.quantization import quantize_dynamic

    folder.mkdir()
    quantize_dynamic(str(model), str(folder / "model.onnx"))
    return folder / "model.onnx"


def _nncf(
    model: Path,
    feeds: list[dict[str, Any]],
    folder: Path,
    *,
    transformer: bool = False,
    preset: str | None = None,
) -> Path:
    import nncf
    import openvino as ov

    folder.mkdir()
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    made = nncf.quantize(
        ov.Core().read_model(model),
        nncf.Dataset(feeds),
        model_type=kind,
        preset=None if preset is None else getattr(nncf.QuantizationPreset, preset),
        subset_size=len(feeds),
    )
    ov.save_model(made, folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def _program(module: Any, feeds: dict[str, Any], outputs: list[str], work: Path) -> Path:
    import torch

    path = work / "eager.pt2"
    example = tuple(torch.from_numpy(np.array(array)) for array in feeds.values())
    torch.export.save(torch.export.export(module.eval(), example), path)
    # The graph's names, where the torch target looks for them: the module's own may differ.
    names = json.dumps({"inputs": list(feeds), "outputs": outputs})
    path.with_suffix(SIGNATURE_SUFFIX).write_text(names, encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
