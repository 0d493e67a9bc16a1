"""Two runs do not share a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasten.core.errors import OutputError
from hasten.search.journal import Journal
from hasten.search.occupied import occupied


def test_another_run_is_kept_out_until_the_first_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with occupied(folder):
        Journal(folder).claim(resume=False)
        (folder / "store").mkdir()
        with pytest.raises(OutputError, match="another run is using"), occupied(folder):
            raise AssertionError("two at once")
        # What a run left is removed under the lock, and the lock holds on.
        Journal(folder).claim(resume=False)
        assert [path.name for path in folder.iterdir()] == ["journal.jsonl"]
        with pytest.raises(OutputError, match="another run is using"), occupied(folder):
            raise AssertionError("two at once")
    with occupied(folder):
        pass


def test_a_folder_that_nothing_was_written_to_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    for name in ("made", "before"):
        with occupied(tmp_path / name):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot write the run's folder"),
        occupied(tmp_path / "file" / "run"),
    ):
        raise AssertionError("made in a file")
