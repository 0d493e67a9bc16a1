"""The journal survives being cut anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.core.errors import RecordError
from hasten.core.recipe import Recipe
from hasten.core.record import Trial
from hasten.search.journal import Journal

IDENTITY = {"model": "m", "data": "d"}


def trial(name: str) -> Trial:
    return Trial(id=name, recipe=Recipe(["optimize_graph"]), target="onnxruntime", runtime="r", status="ok")


def filled(folder: Path, count: int = 3) -> Journal:
    journal = Journal(folder)
    journal.claim(resume=False)
    journal.begin(IDENTITY)
    for i in range(count):
        journal.add(trial(f"t{i}"))
    return journal


def test_every_finished_trial_is_read_back(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    again = Journal(tmp_path / "run")
    again.claim(resume=True)
    assert list(again.resume(IDENTITY)) == ["t0", "t1", "t2"]


@given(st.data())
def test_a_cut_loses_at_most_the_line_being_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("journal") / "run"
    filled(folder)
    path = folder / "journal.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    cut = data.draw(st.integers(first, len(whole)))
    path.write_bytes(whole[:cut])
    complete = whole[first:cut].count(b"\n")
    known = Journal(folder).resume(IDENTITY)
    assert complete <= len(known) <= complete + 1
    Journal(folder).add(trial("later"))
    assert "later" in Journal(folder).resume(IDENTITY)


def test_another_model_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    with pytest.raises(RecordError, match="another model"):
        Journal(tmp_path / "run").resume({"model": "other", "data": "d"})


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no unfinished run"):
        Journal(tmp_path / "run").claim(resume=True)
