"""Trainings that are really killed, and go on."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.train.nets import finish, kill_after, result, run_program, separable
from tests.train.program import main

SETTINGS = {
    "epochs": 8,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "held_back": 0.1,
    "ema": 0.95,
    "checkpoint_every": 7,
    "weight_decay": 0.01,
    "threads": 1,
}


@pytest.fixture
def make_case(tmp_path):
    """A case in a folder of its own, all on the same data."""
    separable(tmp_path / "data")

    def make(name: str, **more: object) -> dict[str, object]:
        (tmp_path / name).mkdir()
        return {"folder": str(tmp_path / name), "data": str(tmp_path / "data"), "settings": SETTINGS, **more}

    return make


def killed_and_resumed(case, folder, steps, processes):
    """Run, kill at each of the steps, and let the last run end; returns how often it was really killed."""
    killed = 0
    for step, count in zip(steps, processes, strict=False):
        (folder / "log").unlink(missing_ok=True)
        killed += kill_after(run_program({**case, "slow_s": 0.02}, count), folder / "log", step)
    finish(run_program(case, processes[len(steps)]))
    return killed


def test_killed_and_resumed_is_the_same_to_the_bit(make_case, tmp_path):
    assert main(make_case("whole")) == 0
    assert killed_and_resumed(make_case("killed"), tmp_path / "killed", [30], [1, 1]) == 1
    whole, killed = result(tmp_path / "whole"), result(tmp_path / "killed")
    assert killed["loss"] == whole["loss"]
    assert killed["evaluations"] == whole["evaluations"]
    assert killed["weights"] == whole["weights"]
    assert len(whole["loss"]) == 8 * 11


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"dropout": True}, {"teacher": True, "model": "embedder"}])
def test_killed_several_times_at_random(make_case, tmp_path, more):
    steps = sorted(random.Random(str(more)).sample(range(1, 80), 3))
    assert main(make_case("whole", **more)) == 0
    killed = killed_and_resumed(make_case("killed", **more), tmp_path / "killed", steps, [1] * 4)
    assert killed >= 2
    assert result(tmp_path / "killed") == result(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[2, 1], [1, 2]])
@pytest.mark.parametrize(
    "more", [{}, {"teacher": True, "model": "embedder"}, {"teacher": True, "subnetworks": True}]
)
def test_another_number_of_processes_goes_on_within_rounding(make_case, tmp_path, processes, more):
    assert main(make_case("whole", **more)) == 0
    assert killed_and_resumed(make_case("killed", **more), tmp_path / "killed", [40], processes) == 1
    whole, killed = result(tmp_path / "whole"), result(tmp_path / "killed")
    assert len(killed["loss"]) == len(whole["loss"])
    # float32 sums in another order, amplified over 88 steps: a thousand roundings of 2**-24 relative.
    np.testing.assert_allclose(killed["loss"], whole["loss"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(killed["weights"], whole["weights"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("held_back", [0.0, 0.1])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_all_processes_end_with_the_same_statistics(make_case, tmp_path, held_back, ema):
    settings = {**SETTINGS, "epochs": 2, "held_back": held_back, "ema": ema}
    finish(run_program(make_case("two", normalization=True, settings=settings), 2))
    assert result(tmp_path / "two", 1) == result(tmp_path / "two")


def test_a_full_disk_leaves_the_last_checkpoint(make_case, tmp_path):
    case = make_case("full", settings={**SETTINGS, "checkpoint_every": 5})
    # The history grows in state.json: at some checkpoint it no longer fits, the earlier ones did.
    program = run_program({**case, "most_bytes": 19_000})
    program.communicate(timeout=120)
    assert program.returncode == 2
    said = (tmp_path / "full" / "error0").read_text()
    assert said.startswith("OutputError: cannot write a checkpoint")
    assert "step-" in said
    kept = sorted((tmp_path / "full" / "checkpoints").iterdir())
    assert len(kept) == 2
    assert all(path.name.startswith("step-") for path in kept)
    assert main(case) == 0
    assert main(make_case("whole", settings={**SETTINGS, "checkpoint_every": 5})) == 0
    assert result(tmp_path / "full")["loss"] == result(tmp_path / "whole")["loss"]


@pytest.mark.slow
def test_a_fall_back_to_one_process_is_refused(make_case, tmp_path):
    program = run_program(make_case("alone", early=True), 2)
    program.communicate(timeout=90)
    assert program.returncode != 0
    said = [path.read_text() for path in (tmp_path / "alone").glob("error*")]
    assert said
    assert all("2 processes were started (WORLD_SIZE), but accelerate trains with 1" in text for text in said)


@pytest.mark.slow
def test_processes_that_hold_different_weights_are_refused(make_case, tmp_path):
    program = run_program(make_case("apart", apart=True), 2)
    program.communicate(timeout=90)
    assert program.returncode != 0
    said = [path.read_text() for path in (tmp_path / "apart").glob("error*")]
    assert said
    assert all("different weights after the first step: gradients are not averaged" in text for text in said)
