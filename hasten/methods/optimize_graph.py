"""Rewrite the graph so that it computes the same with less, and is fit for the other methods.

The rewrites are those of ``hasten.rewrites``, applied in order until none changes anything. The result is
run side by side with the original; where it differs, the rewrites are applied again one at a time and each
one that breaks equality is left out, with the reason.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.methods._exact.settle import rewritten
from hasten.rewrites import ALL, Rewrite, raise_opset
from hasten.rewrites.raise_opset import OLDEST, TARGET

FACTS = Facts(
    summary="constants folded, batch norms and scales absorbed, shapes simplified, operators fused",
    exact=True,
    needs_float=False,
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``optimize_graph``.

    skip: names of rewrites to leave out (the keys of ``hasten.rewrites.ALL``).
    opset: version of the default operator set to raise older graphs to; None: 21.
    """

    skip: tuple[str, ...] = ()
    opset: Annotated[int, Field(ge=OLDEST, le=TARGET)] | None = None

    @field_validator("skip")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ALL:
                raise ValueError(f"{name!r} is not a rewrite; there are {', '.join(ALL)}")
        return names


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Rewrite a copy of the graph until nothing is left to do.

    Without inputs on which the graph runs (calibration samples, else random ones) nothing can be verified,
    so nothing is changed.
    """
    versioned = partial(raise_opset.apply, version=params.opset or TARGET)
    table: dict[str, Rewrite] = {**ALL, "raise_opset": versioned}
    return rewritten(graph, {name: table[name] for name in ALL if name not in params.skip}, context)
