"""What became of each layer: findings, ranking and words, from the record alone."""

from __future__ import annotations

from typing import Any

import pytest

from hasten.core.executed import by_precision, executed
from hasten.core.layers import Kernel, LayerCost, LayerError
from hasten.core.record import Flips, RunRecord
from hasten.report import render
from hasten.report.explain import as_values, explain

from . import parts, records


def kernel(name: str, op_type: str, precision: str, time_us: float | None = 10.0, **more: Any) -> Kernel:
    return Kernel(
        name=name,
        op_type=op_type,
        kind=more.pop("kind", op_type),
        precision=precision,
        layers=more.pop("layers", (name,)),
        time_us=time_us,
    )


def cost(name: str, dtype: str, macs: int = 100) -> LayerCost:
    return LayerCost(
        name=name, op_type="Conv", macs=macs, parameters=9, weight_bytes=9, dtype=dtype, output_shape="1"
    )


def found(kernels: list[Kernel], layers: list[LayerCost]) -> dict[str, str]:
    return {e.layer: e.finding for e in executed(kernels, layers, inputs=("image",))}


def test_a_quantized_layer_in_a_float_kernel_fell_back() -> None:
    layers = [cost("a", "int8"), cost("b", "int8"), cost("c", "float32"), cost("d", "float32")]
    made = found(
        [
            kernel("a", "QLinearConv", "int8"),
            kernel("b", "FusedGemm", "float32"),
            kernel("c", "Conv", "float32"),
            kernel("d", "QLinearConv", "int8"),
        ],
        layers,
    )
    assert made == {"a": "", "b": "fell back", "c": "", "d": "lowered"}


def test_what_a_precision_option_asks_for_is_no_finding() -> None:
    assert found([kernel("a", "FullyConnected", "bfloat16")], [cost("a", "float32")]) == {"a": ""}
    assert found([kernel("a", "Conv", "float32")], [cost("a", "bfloat16")]) == {"a": "fell back"}


@pytest.mark.parametrize(
    ("made", "finding"),
    [
        (kernel("x", "QuantizeLinear", "float32"), "not fused"),
        (kernel("x", "DequantizeLinear", "float32"), "not fused"),
        (kernel("x", "FakeQuantize", "int8"), "not fused"),
        (kernel("x", "Subgraph", "float32", layers=("v.quantize", "v.dequantize")), "not fused"),
        (kernel("x", "Subgraph", "float32", layers=("v.quantize", "softmax")), ""),
        (kernel("x", "Convert", "bfloat16"), "not fused"),
        (kernel("ids", "Convert", "int64"), ""),
        (kernel("x", "Transpose", "int8", layers=("v.quantize",)), ""),
        (kernel("image.quantize", "QuantizeLinear", "float32"), "entrance"),
    ],
)
def test_conversions_are_told_from_the_rest(made: Kernel, finding: str) -> None:
    assert [e.finding for e in executed([made], [], inputs=("image",))] == [finding]


def test_a_kernel_stands_for_its_costliest_layer() -> None:
    layers = [cost("bias", "float32", macs=0), cost("product", "int8", macs=900)]
    (only,) = executed([kernel("k", "FullyConnected", "int8", layers=("bias", "product"))], layers)
    assert (only.layer, only.intended, only.finding) == ("product", "int8", "")


def test_shares_are_of_all_kernels_and_unknown_without_times() -> None:
    made = executed([kernel("a", "Conv", "int8", 30.0), kernel("b", "Conv", "float32", 10.0)], [])
    assert [e.share for e in made] == [0.75, 0.25]
    assert [(a.precision, a.share) for a in by_precision(made)] == [("int8", 0.75), ("float32", 0.25)]
    untimed = executed([kernel("a", "Conv", "int8", None)], [])
    assert [e.share for e in untimed] == [None]
    assert [(a.count, a.share) for a in by_precision(untimed)] == [(1, None)]


def test_errors_are_ranked_by_what_a_layer_costs_alone() -> None:
    names = ("quiet", "loud", "unknown", "inherited")
    values = ((40.0, 12.0), (18.0, 15.0), (None, None), (None, 30.0))
    made = tuple(
        LayerError(name=n, op_type="Conv", action="int8", sqnr_alone_db=alone, sqnr_db=together)
        for n, (alone, together) in zip(names, values, strict=True)
    )
    held = records.record()
    assert held.best is not None
    record = held.model_copy(update={"best": held.best.model_copy(update={"errors": made})})
    lines = explain(record).errors
    assert [line.name for line in lines] == ["loud", "inherited", "quiet", "unknown"]
    assert [line.loud for line in lines] == [True, False, False, False]
    assert (lines[0].alone, lines[0].together, lines[3].alone) == ("18.0 dB", "15.0 dB", "–")
    assert lines[0].percent == 100.0


def test_an_error_beyond_measure_does_not_break_the_bars() -> None:
    held = records.record()
    assert held.best is not None
    made = tuple(
        LayerError(name=str(db), op_type="Conv", action="int8", sqnr_alone_db=db)
        for db in (-1e308, 20.0, 1e308)
    )
    record = held.model_copy(update={"best": held.best.model_copy(update={"errors": made})})
    assert [line.percent for line in explain(record).errors] == [100.0, 0.0, 0.0]


def test_every_finding_is_listed_with_its_share() -> None:
    made = explain(records.record())
    assert {f.name: len(f.lines) for f in made.findings} == {"fell back": 1, "not fused": 1, "lowered": 1}
    assert all(f.share.endswith("%") for f in made.findings)
    page = render(records.record())
    for text in ("Quantized, but computed in float", "What the runtime really executes", "not int8"):
        assert text in page
    assert (
        "the ranges of its input grow" in next(f for f in made.findings if f.name == "lowered").lines[0].why
    )


def test_flipped_samples_are_split_into_lost_and_gained() -> None:
    held = records.record()
    assert held.best is not None
    quality = parts.quality(0.001, n=2000, flips=Flips(lost=2, gained=3))
    card = held.best.holdout.model_copy(update={"quality": quality})
    chosen = held.best.model_copy(update={"holdout": card, "flipped": (5, 9, 4, 8)})
    flipped = explain(held.model_copy(update={"best": chosen})).flipped
    assert flipped is not None
    assert (flipped.lost, flipped.gained, flipped.more) == ((5, 9), (4, 8), 1)


def bare() -> RunRecord:
    held = records.record()
    assert held.best is not None
    none = {"kernels": (), "errors": (), "flipped": ()}
    return held.model_copy(update={"best": held.best.model_copy(update=none)})


def test_a_record_with_none_of_it_shows_no_section_and_says_why() -> None:
    made = explain(bare())
    assert made.empty
    assert made.no_errors
    assert made.no_kernels
    assert made.no_flips
    for record in (bare(), records.kept(), records.minimal()):
        assert 'id="explained"' not in render(record)
    assert 'id="explained"' in render(records.record())


def test_the_values_round_trip_and_hold_the_records_own_numbers() -> None:
    record = records.record()
    assert RunRecord.parse(record.to_json()) == record
    values = as_values(record)
    assert record.best is not None
    assert [k["time_us"] for k in values["kernels"]] == [k.time_us for k in record.best.kernels]
    assert sum(k["share"] for k in values["kernels"]) == pytest.approx(1.0)
    assert len(values["errors"]) == len(record.best.errors)
    assert values["missing"] == {"errors": "", "kernels": "", "flipped": ""}
