"""Iterative schedules: take a little away, recover, look how far the outputs are off, and go on or back.

A method that takes something away is applied round after round, each followed by the steps that recover what
was lost. Samples of the calibration that no step sees judge every round against the original; a round that
loses more than it may is undone, and a smaller one is tried.

Sources: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3.4
(pruning and retraining in turn); Zhu and Gupta 2017, "To prune, or not to prune", equation 1 (the cubic
schedule); Frankle and Carbin 2019, "The Lottery Ticket Hypothesis", section 2 (the same share of what is left
in every round).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator
from pydantic.dataclasses import dataclass

from hasten import methods, train
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Step
from hasten.graph import Graph
from hasten.methods import Change, Context, Facts
from hasten.methods._rounds.run import Plan, Rounds
from hasten.methods._rounds.schedule import Form

FACTS = Facts(
    summary="something taken away in rounds, each recovered, judged, and undone where it costs too much",
    exact=False,
    needs=frozenset({"calibration"}),
)
_SOME = 0.5
"""In place of the amount where a step is checked before any round."""


def _nested(raw: object) -> Step:
    """A step with parameters that its method takes; raises ValueError."""
    try:
        step = Step.parse(raw, "step")
        methods.find(step.method)
    except RecipeError as error:
        raise ValueError(str(error)) from error
    if step.method == __name__.rpartition(".")[2]:
        raise ValueError("rounds inside of rounds are not supported; set more rounds")
    return step


def _checked(step: Step, where: str, **more: Any) -> None:
    try:
        methods.parameters(Step(step.method, {**step.params, **more}), where)
    except RecipeError as error:
        raise ValueError(str(error)) from error


def _shrinking(raw: object) -> Step:
    step = _nested(raw)
    amount = methods.find(step.method).FACTS.amount
    if amount is None:
        able = [name for name in methods.names() if methods.find(name).FACTS.amount is not None]
        raise ValueError(f"{step.method} cannot take away more and more; these can: {', '.join(able)}")
    for name in (amount.parameter, *amount.given):
        if name in step.params:
            raise ValueError(f"{step.method}.{name} is set anew in every round; leave it out")
    _checked(step, "shrink", **{amount.parameter: _SOME}, **amount.given)
    return step


def _recovering(raw: object) -> tuple[Step, ...]:
    if isinstance(raw, str | Mapping) or not hasattr(raw, "__iter__"):
        raise ValueError("recover is a list of steps; it may be empty")
    steps = tuple(_nested(each) for each in raw)
    for i, step in enumerate(steps):
        _checked(step, f"recover[{i}]")
    return steps


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``iterate``.

    shrink: the step that takes away, written as in a recipe, ``{method: {parameter: value}}``, without the
        parameter that says how much: that follows from ``to``.
    to: share that is left in the end of what the method counts: multiply-accumulates, heads, branches, or
        weights that are not zero.
    rounds: how many it takes where none is undone.
    schedule: how what is left goes down, the same share of it in every round (``geometric``), or fast at
        first and ever slower (``cubic``); None: ``cubic`` for single weights, else ``geometric``.
    recover: steps applied after every round. Where zeros in weights are what is taken, ``keep_zeros`` of
        those that have it is true unless it is set.
    largest_loss: squared error of the outputs against the original's, over their variance, on the samples
        held back (of outputs that are no floats, the share that differs); a round that ends beyond it is
        undone, and one of half its size is tried. None: no bound.
    halvings: how often that is done before it is left at what there is.
    held_back: share of the calibration samples that judge the rounds and that no step sees; 0: all judge, and
        steps see all.
    """

    shrink: Annotated[Step, PlainValidator(_shrinking)] = field(
        default_factory=lambda: Step("prune_channels"), hash=False
    )
    to: Annotated[float, Field(gt=0, lt=1)] = 0.5
    rounds: Annotated[int, Field(ge=1)] = 4
    schedule: Form | None = None
    recover: Annotated[tuple[Step, ...], PlainValidator(_recovering)] = field(default=(), hash=False)
    largest_loss: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    halvings: Annotated[int, Field(ge=0)] = 2
    held_back: Annotated[float, Field(ge=0, le=0.5)] = 0.2


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Carry out the rounds.

    Raises MethodError without samples, for steps that lack labels, and what the steps raise; Unavailable,
    before any work, where a step trains and what it needs is missing.
    """
    amount = methods.find(params.shrink.method).FACTS.amount
    assert amount is not None
    needs = {
        need for step in (params.shrink, *params.recover) for need in methods.find(step.method).FACTS.needs
    }
    if "gradients" in needs:
        train.require()
    if "labels" in needs and not (context.calibration is not None and context.calibration.has_labels):
        raise MethodError("iterate: a step learns from labels, and the data have none")
    plan = Plan(
        shrink=params.shrink,
        amount=amount,
        recover=[_kept(step) for step in params.recover] if amount.says == "zeros" else params.recover,
        to=params.to,
        rounds=params.rounds,
        form=params.schedule or ("cubic" if amount.says == "zeros" else "geometric"),
        largest_loss=params.largest_loss,
        halvings=params.halvings,
        held_back=params.held_back,
    )
    return Rounds(graph, plan, context).change()


def _kept(step: Step) -> Step:
    """The step told to leave zeros, if it can be."""
    able = "keep_zeros" in {each.name for each in fields(methods.find(step.method).Params)}
    return Step(step.method, {"keep_zeros": True, **step.params}) if able else step
