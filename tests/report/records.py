"""Whole run records, in the variants a reader may meet: invented numbers, plausible and nothing more."""

from __future__ import annotations

import random
from typing import Any

from hasten.core.layers import Blocks
from hasten.core.record import (
    Best,
    Considered,
    FileEntry,
    Finalist,
    Flips,
    RunRecord,
    Scorecard,
    SourceRuntime,
    Trial,
)

from .parts import (
    SHA,
    budget,
    data,
    errors,
    kernels,
    layers,
    machine,
    model,
    quality,
    rate,
    ratio,
    timing,
    trial,
    trials,
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
        throughput_per_s=rate(398.0),
        throughput_gain=ratio(398.0 / 120.0),
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
        "model": model(),
        "data": data(),
        "budget": budget(),
        "baseline": baseline,
        "source": SourceRuntime(
            name="PyTorch 2.13 eager", latency_ms=timing(48.2), speedup=ratio(12.4 / 48.2)
        ),
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
        "blocks": (
            Blocks(
                version="optimize_graph + quantize_static on openvino",
                rates={8: 1.184, 16: 0.981, 32: 0.952},
                chosen=16,
            ),
        ),
        "finalists": (
            Finalist(
                trial="t3",
                speedup=ratio(3.42),
                outcome="refused",
                reason="cast on openvino did not hold on the holdout",
            ),
            Finalist(trial="t4", speedup=ratio(3.18), outcome="confirmed"),
            Finalist(trial="t2", speedup=ratio(1.55)),
        ),
        "best": Best(
            trial="t4",
            holdout=holdout,
            layers=layers(52, "int8"),
            kernels=kernels(layers(52, "int8")),
            errors=errors(layers(52, "int8")),
            flipped=tuple(range(7, 2000, 120)),
        ),
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
        finalists=(),
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
        metric="top-1 agreement",
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
        finalists=(),
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
            "best": best.model_copy(
                update={
                    "layers": layers(layer_count - 4, "int8"),
                    "kernels": kernels(layers(layer_count - 4, "int8")),
                    "errors": errors(layers(layer_count - 4, "int8")),
                }
            ),
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

_CLOSED = {"status", "verdict", "outcome", "objective", "budget", "created", "unit"}
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
