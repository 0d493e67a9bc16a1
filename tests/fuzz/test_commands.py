"""Hostile files through the command itself: an answer or exit status 2, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import onnx
import pytest

from .seeds import seed
from .test_onnx import byte_cases, structure_cases
from .test_records import changed, text_of


def hasten(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hasten.cli.main", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode in {0, 2}, done.stderr
    assert "Traceback" not in done.stderr
    shown = (done.stdout + done.stderr).replace("\n", "")
    assert shown.isprintable(), shown
    if done.returncode == 2:
        assert done.stderr.startswith("hasten: ")
        assert done.stderr.count("\n") == 1


def test_inspecting_mutated_models(tmp_path: Path) -> None:
    chosen = [
        *list(byte_cases(seed("bundled"), 12))[::6],
        *list(byte_cases(seed("contents"), 3))[-1:],
        *list(structure_cases(seed("branches"), 60))[5::25],
    ]
    for name, content in chosen:
        (tmp_path / f"{name}.onnx").write_bytes(content)
        check(hasten("inspect", f"{name}.onnx", cwd=tmp_path))


def test_names_that_would_steer_a_terminal(tmp_path: Path) -> None:
    model = seed("branches").message()
    name = "\x1b[2J\x07[bold]x\n"
    model.graph.input[0].name = name
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [name], ["x"], name="\x1b]0;title\x07"))
    onnx.save(model, tmp_path / "model.onnx")
    done = hasten("inspect", "model.onnx", cwd=tmp_path)
    check(done)
    assert done.returncode == 0
    assert "[bold]" in done.stdout


@pytest.mark.parametrize("number", [0, 3])
def test_reports_of_mutated_records(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "hasten.json").write_text(changed(Random(number), text_of("faster")), encoding="utf-8")
    check(hasten("report", "saved", cwd=tmp_path))
