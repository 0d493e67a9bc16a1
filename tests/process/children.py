"""What the tests ask a child process to do."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time

from hasten.core.errors import DataError, Unavailable


def add(a: int, b: int) -> int:
    return a + b


def shout(text: str) -> str:
    print("to Python's standard output")
    os.write(1, b"to file descriptor 1, as native libraries do\n")
    return text.upper()


def wrong_data() -> None:
    raise DataError("input 'x' is wrong")


def unavailable() -> None:
    raise Unavailable("no such thing", "pip install it")


def fail() -> None:
    raise KeyError("odd")


def fill_the_disk() -> None:
    """No file may grow any more, standard error's neither."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def crash() -> None:
    ctypes.string_at(0)


def leave() -> None:
    sys.stderr.write("the last words\n")
    sys.exit(7)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(600)


def start_a_child() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def environment(name: str) -> str | None:
    return os.environ.get(name)
