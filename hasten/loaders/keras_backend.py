"""Which framework runs Keras in a child process? Keras asks the variable KERAS_BACKEND when it is imported.

Source: https://keras.io/getting_started/#configuring-your-backend
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "KERAS_BACKEND"
CONVERTIBLE = ("torch", "tensorflow")
"""Backends whose models become ONNX here; a file can be opened on either."""


def backend_environment() -> dict[str, str]:
    """Variables for a child process that imports Keras.

    The backend is the user's choice (the variable, then Keras' configuration file) where it is installed, and
    otherwise one that is: Keras itself would try TensorFlow and fail.
    """
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    if os.environ.get(VARIABLE):
        return quiet
    installed = [name for name in CONVERTIBLE if find_spec(name) is not None]
    chosen = configured()
    if chosen not in installed and installed:
        chosen = installed[0]
    return quiet | ({} if chosen is None else {VARIABLE: chosen})


def configured() -> str | None:
    """The backend in Keras' configuration file, which Keras writes when it is first imported."""
    home = os.environ.get("KERAS_HOME")
    path = (Path(home) if home else Path.home() / ".keras") / "keras.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    chosen = held.get("backend") if isinstance(held, dict) else None
    return chosen if isinstance(chosen, str) else None
