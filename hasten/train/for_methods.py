"""What methods that train share: settings from hyper-parameters, and a failure as a method's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from hasten.core.data import Calibration
from hasten.core.errors import InputError, MethodError, Unavailable
from hasten.graph import Graph
from hasten.train.history import Fitted
from hasten.train.regularizer import Regularizer
from hasten.train.settings import Settings
from hasten.train.start import fit
from hasten.train.subnetworks import Subnetworks

_FEWEST_HELD_BACK = 8
"""Samples: of fewer, none can be spared to choose the best weights by."""


def learn(
    graph: Graph,
    data: Calibration,
    params: Any,
    *,
    teacher: Graph | None = None,
    regularizer: Regularizer | None = None,
    subnetworks: Subnetworks | None = None,
    progress: Callable[[float], None],
    **settings: Any,
) -> Fitted:
    """Train a graph with a method's hyper-parameters; those that ``Settings`` has are taken by their name.

    settings: further ones. regularizer: what changes the weights after each step. subnetworks: parts that
    learn what the graph answers. progress: called with the part that is done. Raises MethodError for what
    cannot be trained, Unavailable when PyTorch or accelerate is missing.
    """
    known = {field.name for field in fields(Settings)}
    given = {f.name: getattr(params, f.name) for f in fields(params) if f.name in known}
    if len(data) * given.get("held_back", 0.0) < _FEWEST_HELD_BACK:
        given |= {"held_back": 0.0} | ({"patience": None} if "patience" in given else {})
    try:
        return fit(
            graph,
            data,
            settings=Settings(**given, **settings),
            teacher=teacher,
            regularizer=regularizer,
            subnetworks=subnetworks,
            listener=lambda event: progress(event.step / event.steps),
        )
    except Unavailable:
        raise
    except InputError as error:
        raise MethodError(f"training: {error}") from error
