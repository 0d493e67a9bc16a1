"""The result appears where the user said, whole."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from hasten.core.errors import OutputError
from hasten.deliver import check_destination, check_writable, publish


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    (folder / "parts").mkdir(parents=True)
    for name in ("model.onnx", "hasten.json", "parts/weights"):
        (folder / name).write_text(name)
    return folder


def content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_into_the_folder_one_is_in(result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    number = here.stat().st_ino
    publish(result, Path(), force=False)
    assert content(here) == ["hasten.json", "model.onnx", "parts"]
    (result / "parts" / "weights").unlink()
    publish(result, Path(), force=True)
    assert content(here / "parts") == []
    assert here.stat().st_ino == number, "a shell that stands in it would be left in a folder that is gone"
    assert content(tmp_path) == ["here", "result"]


def test_through_a_link(result: Path, tmp_path: Path) -> None:
    (tmp_path / "store" / "there").mkdir(parents=True)
    (tmp_path / "link").symlink_to("store/there")
    (tmp_path / "dangling").symlink_to("store/new")
    for name, where in (("link", "there"), ("dangling", "new")):
        publish(result, tmp_path / name, force=False)
        publish(result, tmp_path / name, force=True)
        assert (tmp_path / name).is_symlink()
        assert content(tmp_path / "store" / where) == ["hasten.json", "model.onnx", "parts"]
    assert content(tmp_path) == ["dangling", "link", "result", "store"]
    assert content(tmp_path / "store") == ["new", "there"]


def test_a_full_disk_is_said_and_leaves_nothing(result: Path, tmp_path: Path) -> None:
    (result / "model.onnx").write_bytes(bytes(200_000))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
    try:
        with pytest.raises(OutputError, match=r"File too large.*; the result is in"):
            publish(result, tmp_path / "out", force=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert content(tmp_path) == ["result"]


def test_what_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file, so nothing can be in it"):
        check_writable(tmp_path / "file" / "deeper" / "still")
    with pytest.raises(OutputError, match="File name too long"):
        check_destination(tmp_path / ("x" * 300), force=False)
    check_writable(tmp_path / "new" / "deeper")
