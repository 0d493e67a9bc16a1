"""What is no path is said to be none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasten.core.errors import DataError
from hasten.core.paths import exists


def test_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert exists(tmp_path)
    assert exists(tmp_path / "file")
    assert not exists(tmp_path / "nothing")
    assert not exists(tmp_path / "file" / "in it")


@pytest.mark.parametrize(("name", "says"), [("x" * 300, "name too long"), ("a\0b", "null byte")])
def test_what_cannot_be_told(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(DataError, match=f"(?i){says}"):
        exists(tmp_path / name, DataError)
