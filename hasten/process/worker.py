"""A child process that answers requests, one JSON line each.

A runtime that segfaults, hangs or runs out of memory does so in the child; the parent sees a WorkerError.
Functions are named (``package.module:function``), take JSON values and return a JSON value; arrays travel as
files. The child's standard output is kept for the protocol, so what native libraries print there goes to its
standard error instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from types import TracebackType

from hasten.core import errors
from hasten.core.errors import HastenError, WorkerError
from hasten.core.recipe import Json

_CHUNK_BYTES = 1 << 16
_DYING_S = 10.0


class Worker:
    """One fresh Python process; a context manager that ends it.

    name: what the process is for, in error messages. environment: variables set on top of this process's own.
    """

    def __init__(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hasten.process.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                # Otherwise a types.py in the user's folder would come before Python's own.
                "PYTHONSAFEPATH": "1",
                **(environment or {}),
            },
            # Ctrl-C must reach the parent alone: it decides what is finished and ends the children.
            start_new_session=True,
        )
        self._buffer = b""

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._process.pid

    def request(self, function: str, arguments: Mapping[str, Json], timeout_s: float = 600.0) -> Json:
        """Call ``package.module:function(**arguments)`` in the child and return its JSON value.

        Errors of the hasten tree raised in the child are raised again here with their message. Raises
        WorkerError when the child crashed, raised anything else, or did not answer within ``timeout_s``.
        """
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            raise WorkerError(f"{self.name}: the process has been ended")
        line = json.dumps({"function": function, "arguments": arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"{self.name}: {self._death()}") from error
        answer = json.loads(self._read_line(timeout_s))
        if "error" in answer:
            known = getattr(errors, answer["error"], None)
            if isinstance(known, type) and issubclass(known, HastenError) and known is not errors.Unavailable:
                raise known(answer["message"])
            raise WorkerError(f"{self.name}: {answer['error']}: {answer['message']}")
        value: Json = answer["value"]
        return value

    def _read_line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.close()
                    raise WorkerError(
                        f"{self.name}: no answer within {timeout_s:.0f} s; the process was ended"
                    )
                chunk = os.read(self._process.stdout.fileno(), _CHUNK_BYTES)
                if not chunk:
                    raise WorkerError(f"{self.name}: {self._death()}")
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> str:
        try:
            code = self._process.wait(_DYING_S)
        except subprocess.TimeoutExpired:  # it closed its output, yet lives
            self._process.kill()
            code = self._process.wait()
        how = f"ended with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        self._stderr.seek(0)
        last = self._stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"the process {how}" + (f" ({last[0][:300]})" if last else "")

    def close(self) -> None:
        """End the child and the processes it started, whatever they are doing."""
        if self._process.poll() is None:
            # The child leads a session of its own, so its number is that of its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def call(name: str, function: str, arguments: Mapping[str, Json], timeout_s: float = 600.0) -> Json:
    """One request in a fresh process of its own; raises as ``Worker.request`` does."""
    with Worker(name) as worker:
        return worker.request(function, arguments, timeout_s)
