"""A child may crash, hang, print or be killed; the parent goes on with a message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hasten.core.errors import DataError, WorkerError
from hasten.process import Worker, call

CHILD = "process.children"


def test_answers_requests_one_after_the_other() -> None:
    with Worker("adding") as worker:
        assert worker.request(f"{CHILD}:add", {"a": 1, "b": 2}) == 3
        assert worker.request(f"{CHILD}:add", {"a": 5, "b": 2}) == 7


def test_what_is_printed_does_not_disturb_the_answer() -> None:
    assert call("shouting", f"{CHILD}:shout", {"text": "naïve"}) == "NAÏVE"


def test_errors_of_the_tree_are_raised_again() -> None:
    with pytest.raises(DataError, match="input 'x' is wrong"):
        call("reading", f"{CHILD}:wrong_data", {})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("unavailable", "reading: Unavailable: no such thing; pip install it"),
        ("fail", "reading: KeyError: 'odd'"),
        ("crash", "reading: the process was killed by SIGSEGV"),
        ("kill_itself", "reading: the process was killed by SIGKILL"),
        ("leave", r"reading: the process ended with status 7 \(the last words\)"),
    ],
)
def test_other_ends_say_who_and_how(function: str, message: str) -> None:
    with pytest.raises(WorkerError, match=message):
        call("reading", f"{CHILD}:{function}", {})


def test_an_error_is_told_though_there_is_no_space_to_print_it() -> None:
    with Worker("trying") as worker:
        worker.request(f"{CHILD}:fill_the_disk", {})
        with pytest.raises(WorkerError, match="trying: KeyError: 'odd'"):
            worker.request(f"{CHILD}:fail", {})


def test_goes_on_after_an_error() -> None:
    with Worker("trying") as worker:
        with pytest.raises(WorkerError):
            worker.request(f"{CHILD}:fail", {})
        assert worker.request(f"{CHILD}:add", {"a": 1, "b": 1}) == 2


def test_a_hanging_child_is_ended() -> None:
    started = time.monotonic()
    with Worker("hanging") as worker:
        with pytest.raises(WorkerError, match="no answer within 1 s"):
            worker.request(f"{CHILD}:hang", {}, timeout_s=1.0)
        assert time.monotonic() - started < 20
        with pytest.raises(WorkerError, match="has been ended"):
            worker.request(f"{CHILD}:add", {"a": 1, "b": 1})
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)


def test_a_child_killed_from_outside() -> None:
    with Worker("waiting") as worker:
        worker.request(f"{CHILD}:add", {"a": 1, "b": 1})
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="waiting: the process was killed by SIGKILL"):
            worker.request(f"{CHILD}:add", {"a": 1, "b": 1})


def test_what_a_child_started_ends_with_it() -> None:
    with Worker("starting") as worker:
        grandchild = worker.request(f"{CHILD}:start_a_child", {})
        assert isinstance(grandchild, int)
        os.kill(grandchild, 0)
    deadline = time.monotonic() + 10
    while _runs(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(grandchild)


def test_a_child_ends_with_a_parent_that_is_killed_while_it_computes(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    program = (
        "from hasten.process import Worker; from pathlib import Path; worker = Worker('waiting'); "
        f"Path({str(told)!r}).write_text(str(worker.pid)); worker.request('{CHILD}:hang', {{}})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as parent:
        deadline = time.monotonic() + 60
        while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        parent.kill()
    child = int(told.read_text())
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_environment_is_set_on_top() -> None:
    with Worker("looking", {"HASTEN_TEST": "1"}) as worker:
        assert worker.request(f"{CHILD}:environment", {"name": "HASTEN_TEST"}) == "1"
        assert worker.request(f"{CHILD}:environment", {"name": "PATH"}) == os.environ["PATH"]


def test_modules_of_the_current_folder_do_not_hide_pythons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert call("adding", f"{CHILD}:add", {"a": 1, "b": 2}) == 3
