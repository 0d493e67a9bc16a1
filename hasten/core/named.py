"""The user's own code, named as ``package.module:function``, and what it may do to us."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

from hasten.core.errors import HastenError, InputError, one_line

_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def is_name(text: str) -> bool:
    """Whether ``text`` has the form ``package.module:function``."""
    return _NAME.fullmatch(text) is not None


def resolve(name: str) -> Any:
    """The object that ``package.module:function`` names; modules are also looked for in the current folder.

    Raises InputError when the module cannot be imported or has no such attribute.
    """
    if not is_name(name):
        raise InputError(f"{name!r} is not the name of a function: write package.module:function")
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with user_code(f"importing {module_name!r}"):
        found: Any = import_module(module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise InputError(f"module {module_name!r} has no {path!r}")
        found = getattr(found, part)
    return found


@contextmanager
def user_code(doing: str, error_type: type[HastenError] = InputError) -> Iterator[None]:
    """Turn whatever code that is not hasten's raises into one ``error_type`` that says what was being done.

    Only for calls into the user's own modules, datasets and functions, which may raise anything; errors of
    hasten's own tree pass through. What it prints goes to standard error: standard output is for the result.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except HastenError:
        raise
    except (Exception, SystemExit) as error:
        raise error_type(f"{doing} failed: {type(error).__name__}: {one_line(str(error))}") from error
