"""The child's side of ``hasten.process.worker``: read a request, call the function, write the answer."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from importlib import import_module

_LOOKS_S = 1.0
"""How often the child looks whether its parent is still there; rarely enough to disturb no measurement."""


def main() -> None:
    """Answer requests until standard input ends."""
    threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True).start()
    # Native libraries print to file descriptor 1; keep the protocol on a private copy of it.
    protocol = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        module, _, name = request["function"].partition(":")
        try:
            answer = {"value": getattr(import_module(module), name)(**request["arguments"])}
        except Exception as error:  # noqa: BLE001 - the trial boundary: whatever fails here fails one trial
            with contextlib.suppress(OSError):  # a full disk, which may be what the answer is about
                traceback.print_exc()
            answer = {"error": type(error).__name__, "message": str(error)}
        protocol.write(json.dumps(answer).encode() + b"\n")


def _end_without(parent: int) -> None:
    """End with the parent, which may be killed while a request is computed that takes minutes."""
    while os.getppid() == parent:
        time.sleep(_LOOKS_S)
    os._exit(1)


if __name__ == "__main__":
    main()
