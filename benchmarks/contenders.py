"""The models that are compared on, and what hasten's peers make of each of them."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hasten import loaders, methods, targets
from hasten import read as read_graph
from hasten.core.data import Roles
from hasten.core.errors import HastenError
from hasten.core.recipe import Recipe, Step
from hasten.core.record import Artifact, Scalar
from hasten.core.target import cpu_flags, usable_cores
from hasten.loaders.pt2 import SIGNATURE_SUFFIX
from hasten.measuring import Subject
from hasten.methods import Context
from hasten.targets.files import artifact_of

_CALIBRATION_SAMPLES = 200
_ORT_WAYS = ("MinMax", "Percentile", "Entropy")
LAYOUTS = {"openvino": "openvino", "onnxruntime": "both"}
"""Of ``quantize_static``, as the search has it for each target."""


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


def source_of(case: Case, models: Path) -> tuple[Path, Path]:
    """Model and data of a case; the bundled one lies in examples/."""
    folder = models / case.name
    if case.name == "fashion_mnist":
        folder = Path(__file__).parents[1] / "examples" / case.name
    return folder / "model.onnx", folder / "data.npz"


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


def originals(made: Peers, fixed: Path, roles: Roles, module: Any) -> None:
    """The model as it is: in each runtime, and eager PyTorch where there is a module."""
    made.add("ONNX Runtime fp32", lambda: fixed)
    folder = made.work / "ov_fp32"
    made.add("OpenVINO fp32", partial(_openvino_ir, fixed, folder))
    # OpenVINO's own default precision: bfloat16 where the CPU has it.
    made.add("OpenVINO, its default precision", partial(_path, folder / "model.xml"), **_default_precision())
    if module is not None:
        feeds = _feeds(fixed, roles)
        outputs = [output.name for output in loaders.read(fixed).graph.outputs]
        program = _program(module, feeds[0], outputs, made.work)
        artifact = Artifact(target="torch", entry=program.name, options={"threads": usable_cores()})
        made.subjects.append(Subject(artifact, program.parent, "PyTorch eager"))


def in_int8(made: Peers, case: Case, fixed: Path, roles: Roles, *, more: bool) -> None:
    """The peers' 8 bits, without training; with ``more`` by their other ways of calibrating, too."""
    work, feeds = made.work, _feeds(fixed, roles)
    for way in _ORT_WAYS if more else _ORT_WAYS[:1]:
        name = "ONNX Runtime quantize_static" + ("" if way == _ORT_WAYS[0] else f", {way.lower()}")
        made.add(name, partial(_ort_static, fixed, feeds, work / f"ort_{way}", way))
    made.add("ONNX Runtime quantize_dynamic", partial(_ort_dynamic, fixed, work / "ort_dynamic"))
    ways: dict[str, dict[str, Any]] = {"": {}} | (
        {", transformer": {"transformer": True}} if case.name == "minilm" else {}
    )
    for number, (told, options) in enumerate(ways.items()):
        folder = work / f"nncf_{number}"
        made.add(f"NNCF quantize{told}", partial(_nncf, fixed, feeds, folder, **options))
        if default := _default_precision():
            rest = partial(_path, folder / "model.xml")
            made.add(f"NNCF quantize{told}, rest in bfloat16", rest, **default)
    if more:
        made.add("NNCF quantize, mixed", partial(_nncf, fixed, feeds, work / "nncf_mixed", preset="MIXED"))


def accuracy_controlled(made: Peers, case: Case, fixed: Path, roles: Roles, time_s: float) -> None:
    """NNCF's accuracy control, in the time that hasten's search has."""
    from benchmarks.accuracy_control import accuracy_control

    folder = made.work / "nncf_control"
    arguments = fixed, _feeds(fixed, roles), roles.calibration.store.folder, case.metric, folder
    controlled = partial(_in_time, time_s, accuracy_control, *arguments)
    made.add("NNCF quantize, accuracy control", lambda: controlled() or folder / "model.xml")


def whole_in_int8(made: Peers, fixed: Path, roles: Roles, ranges: str = "minmax") -> None:
    """Whole int8 of hasten's own: every layer that qualifies, for either runtime, without a search."""
    told = "" if ranges == "minmax" else f", ranges by {ranges}"
    for target, name in (("openvino", "OpenVINO"), ("onnxruntime", "ONNX Runtime")):
        params: dict[str, Any] = {"rounding": "outputs", "layout": LAYOUTS[target], "range": ranges}
        static = Step("quantize_static", {**params, "samples": _CALIBRATION_SAMPLES})
        build = partial(_applied, fixed, roles, made.work / f"{ranges}_{target}", target, static)
        made.add(f"hasten's int8 of all layers, {name}{told}", build)


def _applied(model: Path, roles: Roles, folder: Path, target: str, step: Step) -> Path:
    folder.mkdir()
    context = Context(calibration=roles.calibration, work=folder, threads=usable_cores())
    change = methods.apply(Recipe((Step("optimize_graph"), step)), read_graph(model), context)
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


def _default_precision() -> dict[str, Scalar]:
    return {"precision": "bfloat16"} if "avx512_bf16" in cpu_flags() else {}


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
