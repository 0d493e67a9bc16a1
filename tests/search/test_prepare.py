"""What a run starts from: settings that can be used, and the model checked on the data."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import conv_net

import hasten
from hasten.core.errors import InputError
from hasten.core.target import usable_cores
from hasten.loaders.shapes import fix_shapes
from hasten.search.prepare import Prepared, prepare
from hasten.search.request import Request


def prepared(folder: Path, metric: Any = None) -> Prepared:
    """Of a model that takes three samples at a time, and of data that are no multiple of it."""
    graph = fix_shapes(conv_net(), {"image": (3, 3, 16, 16)})
    images = np.random.default_rng(0).standard_normal((10, 3, 16, 16)).astype(np.float32)
    folder.mkdir()
    return prepare(
        Request(model=graph, data={"image": images}, folder=folder, metric=metric, batch=3), threads=1
    )


def agrees(outputs: Any, labels: Any) -> float:
    return 1.0


class Judge:
    def __call__(self, outputs: Any, labels: Any) -> float:
        return 1.0


def test_a_model_that_takes_one_number_of_samples(tmp_path: Path) -> None:
    made = prepared(tmp_path / "run")
    made.workshop.close()
    assert len(made.roles.calibration) == 2


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (agrees, "test_prepare:agrees"),
        (Judge(), "test_prepare:Judge"),
        (partial(agrees, labels=None), "functools:partial"),
    ],
    ids=["function", "object", "partial"],
)
def test_a_function_is_known_by_its_name(tmp_path: Path, metric: Any, name: str) -> None:
    made = prepared(tmp_path / "run", metric)
    made.workshop.close()
    assert name in made.identity["settings"]
    assert " at 0x" not in made.identity["settings"]


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"threads": usable_cores() + 1}, {"seed": -1}, {"seed": 2**32}, {"batch": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is .* must be"):
        Request(model="m.onnx", data="d.npz", folder=Path("run"), **wrong)  # type: ignore[arg-type]
    if "batch" not in wrong:
        with pytest.raises(InputError, match="must be from"):
            hasten.measure(["m.onnx"], **wrong)  # type: ignore[arg-type]


def test_the_lock_of_a_run_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\nfrom hasten.search.occupied import occupied\n"
        "with occupied(pathlib.Path(sys.argv[1])):\n    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert done.returncode == -9
    with pytest.raises(InputError, match="at least 3"):
        hasten.optimize(conv_net(), {"image": np.zeros((1, 3, 16, 16), np.float32)}, folder=tmp_path / "run")
