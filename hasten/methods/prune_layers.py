"""Residual branches dropped whose removal changes the model's outputs least.

Where a graph adds to a value what it computed from it, y = x + f(x), it still runs without f: a block of a
residual network, or the attention or feed-forward part of a transformer's layer. Which branches a model can
best do without is measured, on calibration samples and at the outputs, one removal after the other. The mean
of what is missing, one constant a channel, is put in a branch's place, solved in closed form.

Sources: Veit, Wilber and Belongie 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow
Networks", section 4.1 (deleting single blocks); Men et al. 2024, "ShortGPT: Layers in Large Language Models
are More Redundant Than You Expect", section 2 (block influence); Kim et al. 2024, "Shortened LLaMA",
section 3 (blocks judged by the outputs without them).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from hasten.core.errors import MethodError
from hasten.core.record import Site, Skip
from hasten.graph import Graph
from hasten.methods import Amount, Change, Context, Facts
from hasten.methods._branches.board import Board
from hasten.methods._branches.choose import Choice, Chooser, Importance, Limits, Per
from hasten.methods._branches.find import Branch, Found
from hasten.methods._branches.opened import opened, prepared
from hasten.methods._branches.remove import remove
from hasten.methods._branches.repair import Kind, Replace
from hasten.methods._observe.outputs import broken

FACTS = Facts(
    summary="residual branches dropped whose removal changes the outputs least",
    exact=False,
    needs=frozenset({"calibration"}),
    amount=Amount(parameter="ratio", says="removed"),
)

_HARM = 0.01
"""Where nothing says how much may go, branches go while the outputs' squared error is at most this."""

_INSTEAD: dict[Kind, str] = {"nothing": "nothing", "mean": "its mean", "affine": "a line a channel"}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``prune_layers``.

    count: how many branches go at most. ratio: which share of all of them at most, rounded, one at least.
    most_harm: no branch goes that takes the outputs' squared error, relative to their square, beyond this.
        Where none of the three is given, and no branch is named in ``drop``, that is 0.01.
    drop: names of branches that go first, whatever they cost; they count too.
    importance: what the least of goes first: the error of the ``outputs``, measured without the branch and
        all that went before; or 1 - cosine of what a branch is added to and the sum (``similarity``), in one
        pass.
    per: that for each ``branch``, or for the multiply-accumulates (``macs``) that are saved.
    replace: what takes a branch's place: ``nothing``, the ``mean`` of what is missing, one number a channel,
        an ``affine`` function of what goes round it, two numbers a channel, or of these the ``best``.
    positions: whether all positions (pixels, tokens) count alike in mean and function, ``equal``, or by the
        ``gradients`` of the model's outputs there, so that padding does not count; needs PyTorch.
    samples: at most this many are measured on. exclude: names of branches that stay, or of nodes in them.
    """

    count: Annotated[int, Field(ge=1)] | None = None
    ratio: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    most_harm: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    drop: tuple[str, ...] = ()
    importance: Importance = "outputs"
    per: Per = "branch"
    replace: Replace = "best"
    positions: Literal["equal", "gradients"] = "equal"
    samples: Annotated[int, Field(ge=1)] = 32
    exclude: tuple[str, ...] = ()


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Drop the branches that cost least.

    Raises MethodError without calibration samples, and where a graph, before or after, cannot be run on them.
    """
    if context.calibration is None or not len(context.calibration):
        raise MethodError("prune_layers has no samples to measure on; give --data")
    place = opened(graph, context.calibration, context)
    working, flow, macs, found = place.graph, place.flow, place.macs, place.found
    skipped = list(found.skipped)
    branches = _candidates(found, params, skipped)
    notes = _unknown(found, params)
    if not branches:
        return Change(graph, skipped=tuple(skipped), notes=notes)
    samples = context.calibration.take(params.samples)
    board = Board(working, branches, samples, params.replace, context)
    if params.positions == "gradients" and params.replace != "nothing":
        board.count_by_gradients(working, context.seed)
    chooser = Chooser(board, flow, macs, params.per, context.progress)
    for name in dict.fromkeys(n for n in params.drop if n in board.branches):
        chooser.drop(name)
    limits = _limits(params, len(found.branches), len(chooser.choice.dropped))
    if limits is not None:
        chooser.search(params.importance, limits)
    choice = chooser.choice
    skipped += _left(board, choice, params)
    if not choice.dropped:
        return Change(graph, skipped=tuple(skipped), notes=notes)
    dropped = {name: b for name, b in board.branches.items() if name in choice.dropped}
    changed = prepared(graph)
    remove(changed, dropped, board.lines)
    _check(graph, changed, context)
    harm = list(choice.dropped.values())[-1]
    saved, total = chooser.saved(list(choice.dropped)), sum(macs.values())
    told = (
        f"prune_layers: {len(dropped)} of {len(found.branches)} branches dropped, {saved / total:.1%} of the "
        f"MACs saved, which costs {_share(harm)} of the outputs' energy"
    )
    sites = tuple(_site(branch, board.kinds[name], choice) for name, branch in dropped.items())
    left = 1 - len(dropped) / len(found.branches)
    return Change(changed, sites, tuple(skipped), (*notes, told), left)


def _candidates(found: Found, params: Params, skipped: list[Skip]) -> list[Branch]:
    excluded = frozenset(params.exclude)
    kept = []
    for branch in found.branches:
        if excluded & {branch.name, branch.node, *branch.nodes}:
            reason = "excluded by the recipe"
            skipped.append(Skip(name=branch.name, op_type=branch.op_type, reason=reason))
        else:
            kept.append(branch)
    return kept


def _limits(params: Params, branches: int, dropped: int) -> Limits | None:
    """When to stop; None where all that is to go is named."""
    asked = (params.count, params.ratio, params.most_harm)
    if params.drop and asked == (None, None, None):
        return None
    count = branches if params.count is None else params.count
    if params.ratio is not None:
        count = min(count, max(1, round(params.ratio * branches)))
    harm = _HARM if asked == (None, None, None) else params.most_harm
    return Limits(max(count, dropped), math.inf if harm is None else harm)


def _site(branch: Branch, kind: Kind, choice: Choice) -> Site:
    place = f" {branch.place}" if branch.place else ""
    order = list(choice.dropped).index(branch.name) + 1
    told = []
    if branch.name in choice.alone:
        told.append(f"alone {_share(choice.alone[branch.name])} of the outputs' energy")
    if order > 1 or not told:
        told.append(f"with all before it {_share(choice.dropped[branch.name])} of the outputs' energy")
    what = (
        f"branch{place}: {len(branch.nodes)} nodes, {branch.macs / 1e6:.3g} M MACs, {', '.join(told)}; "
        f"{_INSTEAD[kind]} instead (number {order})"
    )
    return Site(name=branch.name, op_type=branch.op_type, what=what)


def _left(board: Board, choice: Choice, params: Params) -> list[Skip]:
    """The branches that stay, with what was measured of them."""
    limit = _HARM if params.most_harm is None else params.most_harm
    skipped = []
    for name, branch in board.branches.items():
        if name in choice.dropped:
            continue
        told = []
        if name in choice.influence:
            told.append(f"1 - cosine of what it is added to and the sum is {choice.influence[name]:.3g}")
        if name in choice.alone:
            told.append(f"alone it would cost {_share(choice.alone[name])} of the outputs' energy")
        if name in choice.stopped and (choice.dropped or name not in choice.alone):
            told.append(f"with all that are gone {_share(choice.stopped[name])} at least")
        if name in choice.stopped:
            told[-1] += f", more than most_harm, {_share(limit)}"
        reason = "; ".join(told) or "the branches to drop are named, and it is not"
        skipped.append(Skip(name=name, op_type=branch.op_type, reason=reason))
    return skipped


def _share(harm: float) -> str:
    return f"{100 * harm:.3g} %"


def _unknown(found: Found, params: Params) -> tuple[str, ...]:
    """Names in the recipe that mean nothing here."""
    branches = {branch.name for branch in found.branches}
    known = branches | {n for b in found.branches for n in (b.node, *b.nodes)}
    known |= {skip.name for skip in found.skipped}
    notes = [f"exclude names no branch: {name}" for name in sorted(set(params.exclude) - known)]
    return (*notes, *(f"drop names no branch: {name}" for name in sorted(set(params.drop) - branches)))


def _check(graph: Graph, changed: Graph, context: Context) -> None:
    """Run both graphs on a batch; raises MethodError where an output is not finite any more."""
    assert context.calibration is not None
    output = broken(graph, changed, context.calibration, context)
    if output is not None:
        raise MethodError(f"output {output!r} is not finite without these branches; name fewer in drop")
