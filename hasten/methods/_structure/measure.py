"""What each decision alone does to the outputs: measured once, kept in the work folder.

Of one width, branch or rank the harm is measured as it can be quickly. What many of a kind do together, each
layer then solved for what is left, is measured once for each kind, and all its harms are scaled to that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np

from hasten.core.data import Calibration
from hasten.graph import Graph
from hasten.methods import Context
from hasten.methods._branches.opened import alone
from hasten.methods._factors.offers import Offer, offered
from hasten.methods._narrow.work import Aim, needs
from hasten.methods._observe.outputs import Outputs
from hasten.methods._observe.samples import apart
from hasten.methods._structure import bits
from hasten.methods._structure.decisions import DECISIONS, FORM, Decision, Factors, Kind, Scope, harm
from hasten.methods._structure.evolve import Evolution
from hasten.methods._structure.make import made
from hasten.methods._structure.prices import Prices

_FIELDS = [field.name for field in fields(Decision)]
_OPTIONS = 12
"""Of a width at most, closer together where little goes: more are closer than their harms are known."""
_TRIED = (0.8, 0.9, 0.96)
"""Share of the multiply-accumulates that a kind alone is to leave when it is scaled: the least it can."""
_MOST_SCALED = 20.0
"""Beyond that it is not the kind that harms, but something has gone wrong."""
JUDGES = 64
"""Samples by which structures that were made are compared, and which none of them is solved for."""
_BRANCH_SAMPLES = 32
"""On which branches are tried, as ``prune_layers`` does."""


def measured(graph: Graph, calibration: Calibration, scope: Scope, context: Context) -> tuple[Decision, ...]:
    """All decisions of these kinds; raises MethodError where the graph cannot be run."""
    # What another version of hasten left in the folder may say less of a decision.
    told = f"{graph.fingerprint} {calibration.indices} {sorted(scope.kinds)} {scope} {_FIELDS}"
    path = context.work / f"structure-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        single = tuple(_measured(graph, calibration.take(scope.samples), scope, context))
        found = _scaled(graph, single, scope, context)
        part = path.with_suffix(".part")
        part.write_bytes(DECISIONS.dump_json(found))
        part.replace(path)
    return DECISIONS.validate_json(path.read_bytes())


def _measured(graph: Graph, samples: Calibration, scope: Scope, context: Context) -> Iterator[Decision]:
    if "channels" in scope.kinds:
        yield from _widths("channels", graph, samples, scope, context)
    if "heads" in scope.kinds:
        yield from _widths("heads", graph, samples, scope, context)
    if "branches" in scope.kinds:
        for name, branch in alone(graph, samples.take(_BRANCH_SAMPLES), context).items():
            if np.isfinite(branch.harm):
                yield Decision("branches", name, (1, 0), (0.0, branch.harm), nodes=branch.nodes)
    if "ranks" in scope.kinds:
        ranks = offered(graph, samples, context, form=FORM, align=scope.align)
        for name, offers in ranks.items():
            yield Decision(
                "ranks",
                name,
                (0, *(offer.rank for offer in offers)),
                (0.0, *(offer.harm for offer in offers)),
                factors=tuple(_factors(offer) for offer in offers),
                axis=offers[0].axis,
            )
    if "bits" in scope.kinds:
        yield from bits.decisions(graph, samples, scope.quantize, context)


def _factors(offer: Offer) -> Factors:
    first, last, whole = offer.first, offer.last, offer.whole
    return Factors(
        macs=(first.macs / whole.macs, last.macs / whole.macs),
        weights=(first.parameters / whole.parameters, last.parameters / whole.parameters),
        between=first.made,
    )


def _widths(
    kind: Kind, graph: Graph, samples: Calibration, scope: Scope, context: Context
) -> Iterator[Decision]:
    context = replace(context, calibration=samples)
    heads = kind == "heads"
    aim = Aim(
        attended=heads,
        side="outer",
        by="units" if heads else "macs",
        left=1.0,
        widths={},
        importance="outputs",
        scope="global",
        align=1 if heads else scope.align,
        least=scope.least,
        fit=True,
        samples=scope.samples,
        exclude=(),
    )
    for name, need in needs(graph, aim, context).items():
        if len(need.removed) < 2:
            continue
        last = len(need.removed) - 1
        taken = sorted({round(last * (i / (_OPTIONS - 1)) ** 1.5) for i in range(_OPTIONS)})
        values = tuple(need.units - need.removed[i] for i in taken)
        yield Decision(kind, name, values, tuple(need.harms[i] for i in taken))


def _scaled(
    graph: Graph, decisions: tuple[Decision, ...], scope: Scope, context: Context
) -> tuple[Decision, ...]:
    """The decisions with harms that add up to what a greedy structure of each kind is measured to do."""
    if not decisions:
        return decisions
    assert context.calibration is not None
    prices = Prices.of_graph(graph, decisions, context)
    judges, rest = apart(context.calibration, JUDGES)
    outputs = Outputs(graph, judges, context)
    solving = replace(context, calibration=rest)
    scales: dict[Kind, float] = {}
    for kind in scope.kinds:
        targets = (share * prices.whole for share in _TRIED)
        found = (Evolution(decisions, prices, target, context.seed).alone(kind) for target in targets)
        choice = next((choice for choice in found if choice is not None), None)
        expected = 0.0 if choice is None else harm(decisions, choice)
        if choice is not None and expected > 0:
            error = outputs.error(made(graph, decisions, choice, scope, solving).graph)
            scales[kind] = float(np.clip(error / expected, 1 / _MOST_SCALED, _MOST_SCALED))
    return tuple(
        replace(d, harms=tuple(scales.get(d.kind, 1.0) * harm for harm in d.harms)) for d in decisions
    )
