"""A graph with its branches found, and what the outputs would lose without each of them alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir.passes.common as passes

from hasten.core.data import Calibration
from hasten.graph import Graph
from hasten.graph.cost import layer_costs
from hasten.graph.names import name_nodes
from hasten.graph.shapes import infer, observed_shapes
from hasten.methods import Context
from hasten.methods._branches.board import Board
from hasten.methods._branches.choose import Chooser, Limits
from hasten.methods._branches.find import Found, cut_of, find
from hasten.methods._branches.flow import Flow


@dataclass(frozen=True, eq=False)
class Opened:
    """graph: as ``prepared`` made it. macs: of layers that have any, by name."""

    graph: Graph
    flow: Flow
    macs: Mapping[str, int]
    found: Found


def prepared(graph: Graph) -> Graph:
    """A copy in which every node has a name and every constant is an initializer, with shapes."""
    copy = graph.copy()
    name_nodes(copy)
    passes.LiftConstantsToInitializersPass()(copy.ir_model)
    passes.RemoveUnusedNodesPass()(copy.ir_model)
    return infer(copy)


def opened(graph: Graph, samples: Calibration, context: Context) -> Opened:
    """Find the branches; raises MethodError where the graph cannot be run on the samples."""
    working = prepared(graph)
    feeds = next(samples.batches_for(graph.inputs, context.batch)).feeds(graph.inputs)
    costs = layer_costs(working, feeds, threads=context.threads)
    macs = {cost.name: cost.macs for cost in costs if cost.macs}
    flow = Flow(working)
    shapes = observed_shapes(working, feeds, threads=context.threads)
    return Opened(working, flow, macs, find(working, flow, macs, shapes))


@dataclass(frozen=True)
class Alone:
    """A branch. harm: the outputs' error without it, over their variance. nodes: those that go with it."""

    harm: float
    nodes: tuple[str, ...]


def alone(graph: Graph, samples: Calibration, context: Context) -> dict[str, Alone]:
    """What each branch is worth, by its name; raises MethodError."""
    place = opened(graph, samples, context)
    branches = place.found.branches
    if not branches:
        return {}
    board = Board(place.graph, branches, samples, "best", context, relative_to="variance")
    chooser = Chooser(board, place.flow, place.macs, "branch", context.progress)
    chooser.search("outputs", Limits(1, math.inf))
    harms = chooser.choice.alone
    cuts = {branch.name: cut_of(place.flow, branch) for branch in branches}
    return {
        name: Alone(harms[name], tuple(str(node.name) for node in place.flow.unread({cut})))
        for name, cut in cuts.items()
    }
