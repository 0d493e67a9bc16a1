"""Parts of invented runs, for the tests of the report: plausible numbers and nothing more."""

from __future__ import annotations

import random
from typing import Any

from hasten.core.layers import Kernel, LayerCost, LayerError
from hasten.core.measurement import Comparison, Measurement, Verdict
from hasten.core.recipe import Recipe
from hasten.core.record import (
    Artifact,
    BudgetInfo,
    DataInfo,
    Flips,
    MachineInfo,
    ModelInfo,
    Quality,
    Site,
    Skip,
    Trial,
)

SHA = "0123456789abcdef" * 4
INT8 = {"quantize_static": {"weights": "int8", "activations": "uint8", "range": "mse"}}


def rate(median: float) -> Measurement:
    return timing(median).model_copy(update={"unit": "1/s", "p90": None, "p99": None})


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
        "throughput_per_s": rate(120.0),
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


def kernels(costs: tuple[LayerCost, ...]) -> tuple[Kernel, ...]:
    """One kernel a layer: one fell back, one was quantized unasked; and a conversion that stands alone."""
    made = [Kernel(name="image.quantize", op_type="FakeQuantize", kind="jit_avx512_f32", precision="float32",
                   layers=("image.quantize",), time_us=11.0)]  # fmt: skip
    for i, cost in enumerate(costs):
        precision = {3: "float32", 9: "int8"}.get(i, cost.dtype)
        made.append(
            Kernel(
                name=cost.name,
                op_type="Convolution",
                kind=f"brgconv_avx512_{precision}",
                precision=precision,
                layers=(cost.name, f"{cost.name}.quantize"),
                time_us=cost.macs / 1e5,
            )
        )
    stray = {"name": "stray_3", "op_type": "Subgraph", "kind": "jit_avx512_f32", "precision": "float32"}
    return (*made, Kernel(**stray, layers=("stray.quantize", "stray.dequantize"), time_us=40.0))


def errors(costs: tuple[LayerCost, ...]) -> tuple[LayerError, ...]:
    draw = random.Random(5)
    return tuple(
        LayerError(
            name=cost.name,
            op_type=cost.op_type,
            action="int8 weights per channel, uint8 activations" if cost.dtype == "int8" else "left in float",
            sqnr_alone_db=None if cost.dtype != "int8" else draw.uniform(14.0, 48.0),
            sqnr_db=draw.uniform(12.0, 35.0),
        )
        for cost in costs
    )


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


def model() -> ModelInfo:
    return ModelInfo(
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
    )


def data() -> DataInfo:
    return DataInfo(
        sha256=SHA[::-1],
        source="example_data.npz",
        samples=4000,
        labelled=True,
        splits={"Calibration": 1000, "Selection": 1000, "Holdout": 2000},
    )


def budget() -> BudgetInfo:
    return BudgetInfo(
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
    )


def trials() -> tuple[Trial, ...]:
    """One of everything a search may leave."""
    return (*within_budget(), *others())


def within_budget() -> tuple[Trial, ...]:
    ort, ov, opt = "onnxruntime", "openvino", "optimize_graph"
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
            throughput_per_s=rate(402.0),
            throughput_gain=ratio(402.0 / 120.0),
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
    )


def others() -> tuple[Trial, ...]:
    """Rejected, failed, without effect, and for comparison only."""
    ort, ov, opt = "onnxruntime", "openvino", "optimize_graph"
    return (
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
