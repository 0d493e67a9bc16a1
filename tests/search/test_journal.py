"""The journal survives being cut anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasten.core.errors import OutputError, RecordError
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
    Journal(tmp_path / "run").claim(resume=False)
    with pytest.raises(RecordError, match="no unfinished run"):
        Journal(tmp_path / "run").claim(resume=True)


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(OutputError, match=r"not empty, it holds thesis\.txt"):
        Journal(tmp_path).claim(resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    filled(tmp_path / "run")
    with pytest.raises(OutputError, match="holds a run: go on with resume"):
        Journal(tmp_path / "run").claim(resume=False)
    assert len(Journal(tmp_path / "run").resume(IDENTITY)) == 3


def test_what_a_run_left_that_came_to_nothing_is_removed(tmp_path: Path) -> None:
    Journal(tmp_path / "run").claim(resume=False)
    (tmp_path / "run" / "store").mkdir()
    Journal(tmp_path / "run").claim(resume=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["journal.jsonl"]


def test_a_run_without_a_finished_trial_is_none_to_resume(tmp_path: Path) -> None:
    filled(tmp_path / "run", count=0)
    assert not Journal(tmp_path / "run").begun
    Journal(tmp_path / "run").claim(resume=False)
    Journal(tmp_path / "run").begin({"model": "other"})
    Journal(tmp_path / "run").add(trial("t0"))
    assert Journal(tmp_path / "run").begun


@pytest.mark.parametrize("line", [b"[]", b"\xff\xfe", b"", b"{"])
def test_a_damaged_first_line_is_said(tmp_path: Path, line: bytes) -> None:
    filled(tmp_path / "run")
    path = tmp_path / "run" / "journal.jsonl"
    _, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(line + b"\n" + rest)
    with pytest.raises(RecordError, match="damaged; use --force"):
        Journal(tmp_path / "run").resume(IDENTITY)
