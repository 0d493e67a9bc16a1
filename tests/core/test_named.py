"""The user's own functions, found by name, and what they may do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hasten.core.errors import DataError, InputError, ModelError, TrialError
from hasten.core.named import is_name, one_line, resolve, user_code


@pytest.mark.parametrize("text", ["package.module:function", "a:b", "a.b_c:D.e"])
def test_names(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize("text", ["model.onnx", "C:\\model", "a:", ":b", "a/b:c", "a b:c", "a:b()", "../x:y"])
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(InputError, match=r"package\.module:function"):
        resolve(text)


def test_resolves_modules_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_own_module.py").write_text("class Nets:\n    small = 'the one'\n")
    monkeypatch.chdir(tmp_path)
    assert resolve("users_own_module:Nets.small") == "the one"
    with pytest.raises(InputError, match=r"module 'users_own_module' has no 'Nets\.large'"):
        resolve("users_own_module:Nets.large")


def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_broken_module.py").write_text("import sys\nsys.exit('no licence')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="importing 'users_broken_module' failed: SystemExit: no licence"):
        resolve("users_broken_module:f")
    with pytest.raises(InputError, match="importing 'no_such_package' failed: ModuleNotFoundError"):
        resolve("no_such_package:f")


def test_errors_of_user_code_become_one_line() -> None:
    with (
        pytest.raises(DataError, match="reading failed: ValueError: line one line two"),
        user_code("reading", DataError),
    ):
        raise ValueError("line one\n\tline\x1b two")


def test_errors_of_the_tree_pass_through() -> None:
    with pytest.raises(ModelError, match=r"^mine$"), user_code("reading", DataError):
        raise ModelError("mine")


def test_one_line_is_cut() -> None:
    assert one_line("x" * 500, 10) == "x" * 9 + "…"


def test_an_error_of_another_kind_and_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def judge() -> None:
        print("user's own words")
        sys.exit(3)

    with pytest.raises(TrialError, match="judging failed: SystemExit: 3"), user_code("judging", TrialError):
        judge()
    assert capsys.readouterr() == ("", "user's own words\n")
