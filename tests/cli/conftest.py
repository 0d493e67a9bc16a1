"""The command as a person types it, and one real run that many tests look at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "fashion_mnist"

Hasten = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hasten.cli.main", *map(str, arguments)]


def run(arguments: Sequence[object], cwd: Path, limit_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )


@pytest.fixture
def hasten(tmp_path: Path) -> Hasten:
    """Run ``hasten`` in an empty folder; returns the finished process."""
    return lambda *arguments: run(arguments, tmp_path)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``hasten optimize`` saved for the bundled model, with a short budget."""
    folder = tmp_path_factory.mktemp("saved")
    arguments = [
        "optimize",
        DEMO / "model.onnx",
        "--data",
        DEMO / "data.npz",
        "--time-budget",
        "20s",
        "-o",
        "fast",
    ]
    done = run(arguments, folder)
    assert done.returncode in {0, 3}, done.stderr
    return folder / "fast"
