"""Channels removed whose absence the rest makes up for best: narrower layers, which run faster anywhere.

Which channels of which weights stand or fall together follows from the graph (``hasten.graph.coupling``).
Importance orders those of each width; how many of each go follows from what that saves and from how much the
model's outputs, measured, need the width. What is left is then solved by least squares, layer by layer, to
give the original's outputs, without labels or training.

Sources: Li et al. 2017, "Pruning Filters for Efficient ConvNets"; He et al. 2017, "Channel Pruning for
Accelerating Very Deep Neural Networks", section 3; Kurtic et al. 2023, "ZipLM: Inference-Aware Structured
Pruning of Language Models", section 3; Fang et al. 2023, "DepGraph: Towards Any Structural Pruning",
section 3; and, for the other kinds of importance, ``hasten.numerics.importance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from hasten.graph import Graph
from hasten.methods import Amount, Change, Context, Facts, Times
from hasten.methods._narrow.work import Aim, Counted, Scope, narrow
from hasten.methods._narrow.worth import Importance

FACTS = Facts(
    summary="channels removed, and what is left solved to give the same outputs",
    exact=False,
    needs=frozenset({"calibration"}),
    amount=Amount(parameter="macs", says="left"),
)

_Width = Annotated[int, Field(ge=1)]
_ASKED = ("macs", "parameters", "ratio", "latency")
"""Hyper-parameters that say how much goes."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``prune_channels``.

    macs: share of the model's multiply-accumulates that is left at most, 0.7 unless set; where whole blocks
        and ``least`` do not allow it, more is left.
    parameters: the same of the numbers in its weights, in place of ``macs``.
    ratio: in place of both the share of all channels that goes, at least; of those that can go.
    times: what layers take where the model will run, by name and in any one unit. Where some are given, a
        layer counts by its time, which falls as a model fitted to them says, and ``macs`` is the share of the
        time that is left. The model tells what other layers take.
    latency: in place of ``macs``, what all layers take at most, in the unit of ``times``; of those that are
        not named the model tells it.
    widths: how many channels to keep of single widths, by the name of the first layer that makes them; all
        others then stay as they are, and ``macs`` says nothing.
    importance: what the least of goes first: what removal costs the ``outputs`` of the layers that read a
        channel when the others stand in for it as well as they can; the mean square of its ``activations``;
        batch normalization's ``scale``; of all weights that go with it ``l1``, ``l2``, ``gradient``,
        ``taylor``, ``fisher`` (these three need PyTorch), ``median``; ``random``; or the order in which
        ``train_supernet`` trained them to go, ``supernet``.
    scope: how many channels of each width go: where it costs the model's outputs least for what it saves
        (multiply-accumulates, time, numbers or channels; ``global``), or the same share of each (``local``).
    align: what is left of each width is a multiple of it; kernels run multiples of their vectors' lengths.
    least: share of each width that is left at least.
    fit: solve what is left by least squares to give the original's outputs.
    samples: at most this many are looked at. exclude: names of widths that stay as they are.
    """

    macs: Annotated[float, Field(gt=0, le=1)] | None = None
    parameters: Annotated[float, Field(gt=0, le=1)] | None = None
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    times: Times = field(default_factory=dict, hash=False)
    latency: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    widths: Mapping[str, _Width] = field(default_factory=dict, hash=False)
    importance: Importance = "outputs"
    scope: Scope = "global"
    align: Annotated[int, Field(ge=1)] = 8
    least: Annotated[float, Field(gt=0, le=1)] = 0.1
    fit: bool = True
    samples: Annotated[int, Field(ge=1)] = 200
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _used(self) -> Params:
        """Refuse what would be ignored."""
        given = [name for name in _ASKED if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} say how much goes; give one of them")
        if self.times and given and given[0] in {"parameters", "ratio"}:
            raise ValueError(f"times say nothing about {given[0]}; give macs, the share of the time")
        if self.latency is not None and not self.times:
            raise ValueError("latency is in the unit of times, which are missing")
        return self

    @property
    def by(self) -> Counted:
        """What counts."""
        if self.ratio is not None:
            return "units"
        return "macs" if self.parameters is None else "parameters"

    @property
    def left(self) -> float:
        """The share that is left, of whatever counts."""
        if self.ratio is not None:
            return 1 - self.ratio
        given = self.macs if self.parameters is None else self.parameters
        return 0.7 if given is None else given


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Remove channels.

    Raises MethodError without samples, for widths or times of layers that the graph does not have, and where
    it does not run; Unavailable for gradients without PyTorch.
    """
    aim = Aim(
        attended=False,
        side="outer",
        by=params.by,
        left=params.left,
        times=params.times,
        latency=params.latency,
        widths=params.widths,
        importance=params.importance,
        scope=params.scope,
        align=params.align,
        least=params.least,
        fit=params.fit,
        samples=params.samples,
        exclude=params.exclude,
    )
    return narrow(graph, aim, context)
