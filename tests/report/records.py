"""Run records for the tests of the report: invented numbers, plausible and nothing more."""

from __future__ import annotations

import random
from typing import Any

from hasten.core.measurement import Comparison, Measurement, Verdict
from hasten.core.recipe import Recipe
from hasten.core.record import (
    Artifact,
    Best,
    BudgetInfo,
    Considered,
    DataInfo,
    FileEntry,
    Flips,
    LayerCost,
    MachineInfo,
    ModelInfo,
    Quality,
    RunRecord,
    Scorecard,
    Site,
    Skip,
    SourceRuntime,
    Trial,
)

SHA = "0123456789abcdef" * 4
INT8 = {"quantize_static": {"weights": "int8", "activations": "uint8", "range": "mse"}}


def timing(median: float, spread: float = 0.03, **more: Any) -> Measurement:
    draw = random.Random(round(median * 1e6))
    samples = tuple(median * (1 + spread * draw.uniform(-1, 1)) for _ in range(30))
    return Measurement(
        unit="ms",
        median=median,
        ci95=(median * (1 - spread / 2), median * (1 + spread / 2)),
        rounds=30,
        spread=spread,
        samples=samples,
        p90=median * 1.08,
        p99=more.pop("p99", median * 1.31),
        **more,
    )


def ratio(median: float, half: float = 0.03) -> Comparison:
    low, high = median * (1 - half), median * (1 + half)
    verdict: Verdict = "better" if low > 1 else "worse" if high < 1 else "indistinguishable"
    return Comparison(median=median, ci95=(low, high), verdict=verdict)


def quality(
    drop: float, n: int = 1000, metric: str = "accuracy", reference: float = 0.9124, **more: Any
) -> Quality:
    half = more.pop("half", 0.0042)
    allowed = more.pop("allowed", 0.01 * abs(reference))
    met = (
        "met" if drop + half <= allowed else "met on the sample, not proven" if drop <= allowed else "missed"
    )
    return Quality(
        metric=metric,
        value=reference - drop,
        reference=reference,
        drop=drop,
        ci95=(drop - half, drop + half),
        n=n,
        flips=more.pop("flips", Flips(lost=max(0, round(min(drop, 1.0) * n)) + 6, gained=6)),
        allowed=allowed,
        budget=met,
        proof_n=3400 if met == "met on the sample, not proven" else None,
        **more,
    )


def trial(name: str, steps: list[Any], target: str, **fields: Any) -> Trial:
    base: dict[str, Any] = {
        "id": name,
        "recipe": Recipe(steps),
        "target": target,
        "runtime": f"{target} 1.2",
        "options": {"threads": 2},
        "status": "ok",
        "size_bytes": 12_412_900,
        "size_zstd_bytes": 11_390_000,
        "peak_memory_bytes": 88_100_000,
        "load_ms": 41.0,
        "throughput_per_s": 120.0,
        "macs": 386_000_000,
        "parameters": 4_630_000,
        "nonzero_parameters": 4_629_000,
        "seconds": 7.3,
    }
    return Trial(**{**base, **fields})


def layers(
    count: int, dtype: str, rest: str = "float32", prefix: str = "/features/block"
) -> tuple[LayerCost, ...]:
    draw = random.Random(7)
    made = []
    for i in range(count):
        macs = int(10 ** draw.uniform(4.5, 7.6))
        kept = dtype if i % 9 else rest
        made.append(
            LayerCost(
                name=f"{prefix}{i}/conv/Conv",
                op_type="Conv" if i % 4 else "MatMul",
                macs=macs,
                parameters=macs // 300,
                weight_bytes=macs // 300 * (4 if kept == "float32" else 1),
                dtype=kept,
                output_shape=f"[N, {16 * (1 + i % 8)}, 28, 28]",
            )
        )
    return tuple(made)


def machine() -> MachineInfo:
    return MachineInfo(
        cpu="Example CPU 8000 @ 2.40GHz (test data)",
        cores=2,
        flags=("fpu", "sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
        memory_bytes=16_000_000_000,
        system="Linux 6.1 x86_64, glibc 2.36",
        python="3.11.2",
        versions={"onnxruntime": "1.32.0", "openvino": "2026.4.1", "numpy": "2.4.0", "torch": "2.13.0"},
    )


def sites(count: int) -> tuple[Site, ...]:
    return tuple(
        Site(
            name=f"/features/block{i}/conv/Conv",
            op_type="Conv" if i % 4 else "MatMul",
            what="int8 weights per channel, uint8 activations",
        )
        for i in range(count)
    )


def skips() -> tuple[Skip, ...]:
    broken = (
        "the ranges of its input grow 40 times when it is quantized: reverting it alone recovers 0.6 points"
    )
    return (
        *(
            Skip(
                name=f"/features/block{i}/se/Mul",
                op_type="Mul",
                reason="not an operator with an int8 kernel here",
            )
            for i in range(16)
        ),
        *(Skip(name=f"/features/block{i}/conv/Conv", op_type="Conv", reason=broken) for i in (0, 9)),
        Skip(name="/classifier/Gemm", op_type="Gemm", reason="the last layer, left in float by the recipe"),
    )


def trials() -> tuple[Trial, ...]:
    """One of everything a search may leave."""
    ort, ov = "onnxruntime", "openvino"
    opt = "optimize_graph"
    return (
        trial(
            "t1",
            [opt],
            ort,
            quality=quality(0.0, half=0.0, flips=Flips(lost=0, gained=0)),
            latency_ms=timing(11.6),
            speedup=ratio(1.07),
        ),
        trial(
            "t2", [opt], ov, quality=quality(0.0001, half=0.0004), latency_ms=timing(7.9), speedup=ratio(1.57)
        ),
        trial(
            "t3",
            [opt, {"cast": {"to": "bfloat16"}}],
            ov,
            options={"threads": 2, "precision": "bf16"},
            quality=quality(0.0008, half=0.0016),
            latency_ms=timing(5.1),
            speedup=ratio(2.43),
        ),
        trial(
            "t4",
            [opt, INT8],
            ov,
            quality=quality(0.0021),
            latency_ms=timing(3.86),
            speedup=ratio(3.21),
            size_bytes=3_201_000,
            size_zstd_bytes=2_700_000,
            peak_memory_bytes=61_000_000,
            load_ms=64.0,
            throughput_per_s=402.0,
            sites=sites(42),
            skipped=skips(),
            artifact=Artifact(target=ov, entry="model.xml"),
            notes=("two layers were reverted to float after a per-layer search on Calibration",),
        ),
        trial(
            "t5",
            [opt, INT8],
            ort,
            quality=quality(0.0034),
            latency_ms=timing(5.6, 0.09, warning="noisy: the interquartile range is 9 % of the median"),
            speedup=ratio(2.2, 0.08),
            size_bytes=3_240_000,
            sites=sites(42),
        ),
        trial(
            "t6",
            [opt, {"quantize_dynamic": {}}],
            ort,
            quality=quality(0.0012),
            latency_ms=timing(12.9),
            speedup=ratio(0.96, 0.06),
            size_bytes=7_900_000,
        ),
        trial(
            "t7",
            [opt, {"quantize_static": {"range": "minmax"}}],
            ov,
            status="rejected",
            reason="lost 1.31 points, 0.91 are allowed",
            quality=quality(0.0131),
            latency_ms=timing(3.71),
            speedup=ratio(3.34),
            size_bytes=3_190_000,
        ),
        trial(
            "t8",
            [opt, {"quantize_static": {"range": "minmax", "symmetric": True}}],
            ort,
            status="rejected",
            reason="lost 61.2 points, 0.91 are allowed",
            quality=quality(0.612, half=0.02),
            latency_ms=timing(5.5),
            speedup=ratio(2.25),
        ),
        trial(
            "t9",
            [opt, {"cast": {"to": "float16"}}],
            ort,
            status="failed",
            reason="onnxruntime: no float16 kernel for Resize (node /up/Resize)",
            size_bytes=None,
        ),
        trial(
            "t10",
            [{"quantize_dynamic": {}}],
            ov,
            status="no effect",
            reason="no MatMul, Gemm or recurrent layer with constant weights",
            size_bytes=None,
        ),
        trial(
            "t11",
            [opt, INT8],
            ort,
            selectable=False,
            quality=quality(0.004),
            latency_ms=timing(6.4),
            speedup=ratio(1.94),
            notes=("a peer's defaults, for comparison",),
        ),
    )


def record(**changes: Any) -> RunRecord:
    """A run that found something faster; every field filled."""
    baseline = trial(
        "baseline",
        [],
        "onnxruntime",
        quality=quality(0.0, half=0.0, flips=Flips(lost=0, gained=0)),
        latency_ms=timing(12.4),
        speedup=ratio(1.0),
    )
    holdout = Scorecard(
        quality=quality(0.0026, n=2000, half=0.0039, reference=0.9087),
        latency_ms=timing(3.9),
        speedup=ratio(3.18),
        throughput_per_s=398.0,
        size_bytes=3_201_000,
        size_zstd_bytes=2_700_000,
        peak_memory_bytes=61_200_000,
        load_ms=63.0,
    )
    base: dict[str, Any] = {
        "hasten_version": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "seconds": 252.0,
        "machine": machine(),
        "model": ModelInfo(
            sha256=SHA,
            source="example_net.onnx",
            format="onnx",
            inputs=("image: float32[N, 3, 224, 224]",),
            outputs=("logits: float32[N, 1000]",),
            opset=17,
            parameters=4_630_000,
            macs=386_000_000,
            size_bytes=18_600_000,
            layers=layers(52, "float32"),
            notes=("initializers that were inputs were made constants",),
        ),
        "data": DataInfo(
            sha256=SHA[::-1],
            source="example_data.npz",
            samples=4000,
            labelled=True,
            splits={"Calibration": 1000, "Selection": 1000, "Holdout": 2000},
        ),
        "budget": BudgetInfo(
            max_drop=0.01,
            points=False,
            time_s=300.0,
            objective="latency",
            target="cpu",
            metric="accuracy",
            batch=1,
            threads=2,
            seed=0,
            shapes={"image": "1x3x224x224"},
        ),
        "baseline": baseline,
        "source": SourceRuntime(name="PyTorch 2.13 eager", latency_ms=timing(48.2), speedup=ratio(12.4)),
        "trials": trials(),
        "considered": (
            Considered(name="optimize_graph on onnxruntime", tried=True, reason="always"),
            Considered(
                name="cast to bfloat16 on onnxruntime",
                tried=False,
                reason="this runtime has no bfloat16 kernels on the CPU",
            ),
            Considered(
                name="quantize_static in int4",
                tried=False,
                reason="no kernel on this machine computes in int4",
            ),
        ),
        "best": Best(trial="t4", holdout=holdout, layers=layers(52, "int8")),
        "verdict": "faster",
        "headline": "3.2 times faster than the original, within 1 % of its accuracy: int8 on OpenVINO.",
        "reasons": (
            "Of the trials within budget it has the lowest latency; the next is 1.32 times slower.",
            "The processor has VNNI, so int8 kernels are worth more here than on one without it.",
        ),
        "files": (
            FileEntry(path="model.xml", sha256=SHA, bytes=201_000),
            FileEntry(path="model.bin", sha256=SHA[::-1], bytes=3_000_000),
        ),
    }
    return RunRecord(**{**base, **changes})


def kept() -> RunRecord:
    """Nothing qualified."""
    return record(
        trials=tuple(_disappointing(t, i) for i, t in enumerate(trials())),
        best=None,
        verdict="kept",
        headline="Keep the original: nothing within 1 % of its accuracy is measurably faster here.",
        reasons=(
            "int8 loses between 3.0 and 4.8 points here; the first and the last convolution are to blame, "
            "and without them there is no gain left.",
            "The processor has no VNNI and no AMX, so int8 kernels gain little over float32.",
            "The model is small: 0.31 ms of its 0.42 ms are call overhead, which no method removes.",
        ),
    )


def _disappointing(t: Trial, i: int) -> Trial:
    if t.id == "t1":
        slow = {"speedup": ratio(1.01, 0.03), "reason": "indistinguishable from the original in speed"}
        return t.model_copy(update=slow)
    if t.status != "ok":
        return t
    lost = {"status": "rejected", "quality": quality(0.03 + 0.002 * i), "reason": "lost too much"}
    return t.model_copy(update=lost)


def smaller() -> RunRecord:
    """Not faster, but a quarter of the size; the search was for size."""
    made = record()
    best = made.best
    assert best is not None
    slow = best.holdout.model_copy(
        update={
            "speedup": ratio(0.99, 0.04),
            "latency_ms": timing(12.5, 0.12, warning="noisy: the interquartile range is 12 % of the median"),
        }
    )
    return made.model_copy(
        update={
            "best": best.model_copy(update={"holdout": slow}),
            "budget": made.budget.model_copy(update={"objective": "size"}),
            "verdict": "smaller",
            "headline": "3.9 times smaller within 1 % of its accuracy, at a speed that cannot be told apart.",
            "reasons": ("No int8 kernel of this runtime is faster than its float32 kernel on this machine.",),
        }
    )


def unlabelled() -> RunRecord:
    """Agreement instead of a metric."""
    made = record()
    agreement = quality(
        0.009,
        n=2000,
        metric="agreement (top-1, per sample)",
        reference=1.0,
        half=0.004,
        allowed=0.01,
        details={"per decision": 0.9967, "worst output": 0.9911},
    )
    best = made.best
    assert best is not None
    return made.model_copy(
        update={
            "data": made.data.model_copy(update={"labelled": False}),
            "best": best.model_copy(
                update={"holdout": best.holdout.model_copy(update={"quality": agreement})}
            ),
            "headline": "3.2 times faster than the original, agreeing with it on 99.1 % of the samples.",
        }
    )


def minimal() -> RunRecord:
    """Everything optional left out."""
    bare = {
        "size_bytes": None,
        "size_zstd_bytes": None,
        "peak_memory_bytes": None,
        "load_ms": None,
        "throughput_per_s": None,
        "macs": None,
        "parameters": None,
        "nonzero_parameters": None,
        "options": {},
    }
    made = record()
    return record(
        baseline=trial("baseline", [], "onnxruntime", **bare),
        machine=made.machine.model_copy(update={"flags": (), "versions": {}}),
        model=made.model.model_copy(update={"layers": (), "macs": None, "notes": ()}),
        source=None,
        trials=(),
        considered=(),
        best=None,
        verdict="kept",
        headline="Keep the original: there was no time for a single trial.",
        reasons=(),
        files=(),
    )


def many(trial_count: int = 200, layer_count: int = 300) -> RunRecord:
    """A long search over a large model."""
    draw = random.Random(3)
    grown = list(trials())
    for i in range(trial_count - len(grown)):
        drop = draw.choice([draw.gauss(0.003, 0.003), abs(draw.gauss(0.02, 0.02))])
        over = drop > 0.0091
        milliseconds = draw.uniform(4.0, 14.0)
        grown.append(
            trial(
                f"m{i}",
                ["optimize_graph", {"quantize_static": {"percentile": 99.0 + i / 1000}}],
                draw.choice(["onnxruntime", "openvino"]),
                options={"threads": draw.choice([1, 2]), "graph_level": draw.choice(["basic", "all"])},
                status="rejected" if over else "ok",
                reason="lost too much" if over else None,
                quality=quality(drop),
                latency_ms=timing(milliseconds),
                speedup=ratio(12.4 / milliseconds),
                size_bytes=draw.randrange(3_000_000, 12_000_000),
            )
        )
    made = record()
    best = made.best
    assert best is not None
    return made.model_copy(
        update={
            "trials": tuple(grown),
            "model": made.model.model_copy(update={"layers": layers(layer_count, "float32")}),
            "best": best.model_copy(update={"layers": layers(layer_count - 4, "int8")}),
        }
    )


VARIANTS = {
    "faster": record,
    "kept": kept,
    "smaller": smaller,
    "unlabelled": unlabelled,
    "minimal": minimal,
    "many": many,
}

_CLOSED = {"status", "verdict", "objective", "budget", "created", "unit"}
"""Keys whose values come from a closed list, so that no model or data file can choose them."""


def renamed(made: RunRecord, prefix: str) -> RunRecord:
    """The same record with ``prefix`` before every name and text, in keys and values."""

    def walk(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            free = key in ("options", "versions", "splits", "details", "shapes") or key.startswith("step")
            return {prefix + k if free else k: walk(v, k) for k, v in value.items()}
        if isinstance(value, list):
            inner = "step" if key == "steps" else key
            return [walk(v, inner) for v in value]
        return prefix + value if isinstance(value, str) and key not in _CLOSED else value

    return RunRecord.model_validate(walk(made.model_dump(mode="json"), ""))
