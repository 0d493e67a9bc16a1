"""Cut off midway: finished trials survive, the output is whole or absent, a resumed run repeats nothing."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hasten.cli.interrupt import Interrupt
from hasten.cli.optimize import interrupted
from hasten.core.record import RunRecord
from tests.cli.conftest import DEMO, command, run

ARGUMENTS = [
    "optimize",
    DEMO / "model.onnx",
    "--data",
    DEMO / "data.npz",
    "-o",
    "fast",
]
LONG, SHORT = ["--time-budget", "150s"], ["--time-budget", "6s"]
"""What is cut off must not have ended by itself, however slow the machine; what goes on may."""


def journal(folder: Path) -> list[str]:
    path = folder / ".fast.run" / "journal.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def begin(folder: Path, trials: int) -> subprocess.Popen[bytes]:
    """Start a run and wait until so many trials are finished."""
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            command(*ARGUMENTS, *LONG), cwd=folder, stderr=said, stdout=subprocess.DEVNULL
        )
    deadline = time.monotonic() + 120
    while len(journal(folder)) <= trials:
        assert process.poll() is None, "the run ended before it could be cut off"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_cut_off_and_resumed(tmp_path: Path, how: signal.Signals) -> None:
    process = begin(tmp_path, trials=2)
    process.send_signal(how)
    status = process.wait(timeout=60)
    assert status == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert (tmp_path / "said").read_text().splitlines()[-1].endswith("--resume continues")
    assert not (tmp_path / "fast").exists()
    finished = [json.loads(line)["id"] for line in journal(tmp_path)[1:]]
    assert len(finished) >= 2

    refused = run(ARGUMENTS, tmp_path)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr

    done = run([*ARGUMENTS, *SHORT, "--resume"], tmp_path)
    assert done.returncode in {0, 3}, done.stderr
    record = RunRecord.read(tmp_path / "fast")
    ids = [trial.id for trial in record.trials]
    assert ids[: len(finished)] == finished
    assert len(set(ids)) == len(ids)


def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    process = begin(tmp_path, trials=1)
    for more in ([], ["--force"], ["--resume"]):
        refused = run([*ARGUMENTS, *SHORT, *more], tmp_path)
        assert refused.returncode == 2
        assert "another run is using" in refused.stderr
    assert process.poll() is None
    assert len(journal(tmp_path)) >= 2
    process.kill()
    process.wait()


def cut_off() -> None:
    """As a zip file does whose member is open when it is closed by an interrupt."""
    try:
        raise KeyboardInterrupt
    finally:
        raise ValueError("can't close the file")


def test_an_interrupt_is_known_behind_the_error_it_causes() -> None:
    with pytest.raises(ValueError, match="close") as caught:
        cut_off()
    assert interrupted(caught.value)
    assert interrupted(KeyboardInterrupt())
    assert not interrupted(ValueError())


def test_an_interrupt_that_somebody_forgot_is_raised_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        interrupt.check()
        # As in a destructor, which cannot raise.
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_is_an_error_of_the_output(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing the samples (12 MB) fails midway."""
    limited = ["bash", "-c", 'ulimit -f 4096; exec "$@"', "bash", *command(*ARGUMENTS)]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "fast").exists()
