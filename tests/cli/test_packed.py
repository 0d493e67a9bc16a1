"""Compressed model files through the commands: written, opened everywhere, refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zstandard

from tests.cli.conftest import DEMO, Hasten

MODEL, DATA = DEMO / "model.onnx", DEMO / "data.npz"
RECIPE = "steps:\n  - optimize_graph: {}\n  - compress_weights: {bits: 4, rounding: outputs, group: 16}\n"


@pytest.fixture
def small(hasten: Hasten, tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    done = hasten("apply", MODEL, "--recipe", "recipe.yaml", "--data", DATA, "-o", "small.onnx.zst")
    assert done.returncode == 0, done.stderr
    assert "no runtime opens small.onnx.zst as it is" in done.stdout
    assert "rounded for the outputs" in done.stdout
    return tmp_path / "small.onnx.zst"


def test_apply_writes_one_small_file_that_opens_again(hasten: Hasten, small: Path, tmp_path: Path) -> None:
    assert small.stat().st_size < 0.25 * MODEL.stat().st_size
    assert not list(tmp_path.glob("*partial*"))
    assert not list(tmp_path.glob("*.data"))
    (tmp_path / "nothing.yaml").write_text("steps: []\n")
    done = hasten("apply", small, "--recipe", "nothing.yaml", "-o", "again.onnx", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["notes"] == []

    from hasten.graph import Graph
    from hasten.graph.evaluate import Evaluator

    with np.load(DATA) as file:
        spec = Graph.open(tmp_path / "again.onnx").inputs[0]
        feeds = {spec.name: file[spec.name][:16]}
    found, again = (
        next(iter(Evaluator(graph).run(feeds).values()))
        for graph in (Graph.open(MODEL), Graph.open(tmp_path / "again.onnx"))
    )
    assert 0 < np.linalg.norm(found - again) < 0.25 * np.linalg.norm(found)


def test_commands_take_it_as_the_model(hasten: Hasten, small: Path) -> None:
    done = hasten("inspect", small)
    assert done.returncode == 0, done.stderr
    assert "small.onnx.zst" in done.stdout
    done = hasten("measure", MODEL, small, "--data", DATA, "--json")
    assert done.returncode == 0, done.stderr
    original, compressed = json.loads(done.stdout)
    assert compressed["size_bytes"] < 0.5 * original["size_bytes"]
    assert compressed["quality"]["value"] > original["quality"]["value"] - 0.05
    done = hasten("optimize", small, "--data", DATA, "--time-budget", "5s", "-o", "fast")
    assert done.returncode in {0, 3}, done.stderr


@pytest.mark.parametrize("command", ["inspect", "measure", "optimize"])
def test_damaged_ones_are_refused(hasten: Hasten, tmp_path: Path, command: str) -> None:
    whole = zstandard.compress(MODEL.read_bytes())
    more = ["--data", DATA, "-o", "out"] if command == "optimize" else []
    for name, content, says in (
        ("cut.onnx.zst", whole[: len(whole) // 2], "cut short"),
        ("plain.onnx.zst", MODEL.read_bytes(), "not a zstd file"),
        ("bomb.onnx.zst", zstandard.compress(bytes(1 << 27)), "unfold"),
    ):
        (tmp_path / name).write_bytes(content)
        done = hasten(command, name, *more)
        assert done.returncode == 2, (done.returncode, done.stderr)
        assert name in done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_of_another_kind_is_refused(hasten: Hasten, tmp_path: Path) -> None:
    (tmp_path / "nothing.yaml").write_text("steps: []\n")
    done = hasten("apply", MODEL, "--recipe", "nothing.yaml", "-o", "small.zst")
    assert done.returncode == 2
    assert "must end in .onnx or .onnx.zst" in done.stderr
    assert not (tmp_path / "small.zst").exists()
