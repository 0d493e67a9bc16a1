"""hasten: the fastest version of a trained model that keeps its quality, with the evidence.

Public names are imported on first use, so that ``import hasten`` costs little and pulls in no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hasten.api import Model, apply, fit, load, measure, optimize, read
    from hasten.core.budget import Budget
    from hasten.core.errors import HastenError
    from hasten.core.recipe import Recipe, Step
    from hasten.core.record import RunRecord
    from hasten.graph import Graph

__version__ = "0.1.0"

_HOME = {
    "Budget": "hasten.core.budget",
    "Graph": "hasten.graph",
    "HastenError": "hasten.core.errors",
    "Model": "hasten.api",
    "Recipe": "hasten.core.recipe",
    "RunRecord": "hasten.core.record",
    "Step": "hasten.core.recipe",
    "apply": "hasten.api",
    "fit": "hasten.api",
    "load": "hasten.api",
    "measure": "hasten.api",
    "optimize": "hasten.api",
    "read": "hasten.api",
}

__all__ = [
    "Budget",
    "Graph",
    "HastenError",
    "Model",
    "Recipe",
    "RunRecord",
    "Step",
    "__version__",
    "apply",
    "fit",
    "load",
    "measure",
    "optimize",
    "read",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'hasten' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
