"""How is it trained fast? ``fit``: precision, several processes, a teacher, and runs that can go on.

``settings`` says what a training may be told; ``history`` what it tells. ``order`` decides which samples make
up which optimizer step, ``samples`` loads them, ``network`` runs a graph or a module, ``objective`` and
``losses`` say what is minimized, ``regularizer`` what is done to weights after each step, ``subnetworks``
what learns besides the whole, ``normalized`` gives a graph normalizations for the time of it, ``loop`` does
it, ``checkpoint`` keeps it, ``world`` is who takes part, ``cost`` says what it will take.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hasten.core.errors import Unavailable

if TYPE_CHECKING:
    from hasten.train.cost import seconds_per_sample
    from hasten.train.for_methods import learn
    from hasten.train.history import Event, Fitted, History, Listener
    from hasten.train.regularizer import Pace, Regularizer
    from hasten.train.settings import Settings
    from hasten.train.sites import changed
    from hasten.train.start import fit
    from hasten.train.subnetworks import Subnetworks

INSTALL = "install it with: pip install 'hasten[train]'"
_HOME = {
    "Event": "history",
    "Fitted": "history",
    "History": "history",
    "Listener": "history",
    "Pace": "regularizer",
    "Regularizer": "regularizer",
    "Settings": "settings",
    "Subnetworks": "subnetworks",
    "changed": "sites",
    "fit": "start",
    "learn": "for_methods",
    "seconds_per_sample": "cost",
}
__all__ = [
    "Event",
    "Fitted",
    "History",
    "Listener",
    "Pace",
    "Regularizer",
    "Settings",
    "Subnetworks",
    "changed",
    "fit",
    "learn",
    "require",
    "seconds_per_sample",
]
_NEEDED = {"torch": "PyTorch", "accelerate": "accelerate", "safetensors": "safetensors"}


def require() -> None:
    """Raise Unavailable, with how to install it, where something that training needs is missing."""
    missing = [said for module, said in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise Unavailable(f"training needs {', '.join(missing)}, which is not installed", INSTALL)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'hasten.train' has no attribute {name!r}")
    if name in {"fit", "learn", "seconds_per_sample"}:
        require()
    return getattr(import_module(f"hasten.train.{_HOME[name]}"), name)
