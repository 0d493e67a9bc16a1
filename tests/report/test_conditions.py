"""The conditions are written out, and absence is claimed only where the record shows it."""

from __future__ import annotations

from hasten.core.record import RunRecord
from hasten.report.conditions import conditions, drop_allowed, when

from . import records


def values(flags: tuple[str, ...]) -> dict[str, str]:
    made = records.record()
    made = made.model_copy(update={"machine": made.machine.model_copy(update={"flags": flags})})
    return {pair.name: " ".join(pair.values) for part in conditions(made) for pair in part.pairs}


def test_instructions_present_and_absent() -> None:
    found = values(("avx2", "avx512f", "avx512_vnni", "sse4_2"))
    assert found["Instructions it has"] == "avx2 avx512f avx512_vnni"
    assert found["Instructions it lacks"] == "avx_vnni avx512_bf16 avx512_fp16 amx_int8 amx_bf16"
    assert values(("asimd", "asimddp"))["Instructions it lacks"] == "asimdhp i8mm sve sve2"


def test_where_flags_are_unknown_nothing_is_claimed() -> None:
    assert "Instructions it lacks" not in values(())


def test_the_budget_and_the_date_as_given() -> None:
    made = records.record()
    assert drop_allowed(made) == "1 % of the original's value"
    points = made.budget.model_copy(update={"points": True, "max_drop": 0.005})
    assert drop_allowed(made.model_copy(update={"budget": points})) == "0.005 in the metric's own unit"
    for given, written in ((0.0, "0 %"), (0.001, "0.1 %"), (0.1, "10 %"), (1.0, "100 %")):
        budget = made.budget.model_copy(update={"max_drop": given})
        assert (
            drop_allowed(made.model_copy(update={"budget": budget})) == f"{written} of the original's value"
        )
    assert when(made) == "2026-01-02 03:04 UTC"
    assert when(made.model_copy(update={"created": "yesterday"})) == "yesterday"


def test_the_table_that_widths_were_cut_by() -> None:
    def found(made: RunRecord) -> list[str]:
        parts = conditions(made)
        return [
            text for part in parts for pair in part.pairs if "blocks" in pair.name for text in pair.values
        ]

    (line,) = found(records.record())
    assert "16 channels for optimize_graph + quantize_static on openvino" in line
    assert "1.18 times at 8, 0.98 times at 16, 0.95 times at 32" in line
    assert found(records.record(blocks=())) == []
