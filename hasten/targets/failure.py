"""What a runtime says when it fails, on one line; and a missing runtime with its remedy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hasten.core.errors import Unavailable

_MOST_CHARACTERS = 400


def one_line(error: BaseException) -> str:
    """The message of an exception on one line of bounded length; its type where it has no message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def runtime(module: str, package: str) -> Any:
    """Import a runtime; raises Unavailable with the ``pip install`` that brings it."""
    try:
        return import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library of the package cannot be loaded
        raise Unavailable(
            f"{module} cannot be imported ({one_line(error)})", f"install it with `pip install {package}`"
        ) from error
