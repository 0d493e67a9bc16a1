"""The child's side of ``hasten.process.worker``: read a request, call the function, write the answer."""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module


def main() -> None:
    """Answer requests until standard input ends."""
    # Native libraries print to file descriptor 1; keep the protocol on a private copy of it.
    protocol = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        module, _, name = request["function"].partition(":")
        try:
            answer = {"value": getattr(import_module(module), name)(**request["arguments"])}
        except Exception as error:  # noqa: BLE001 - the trial boundary: whatever fails here fails one trial
            traceback.print_exc()
            answer = {"error": type(error).__name__, "message": str(error)}
        protocol.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
