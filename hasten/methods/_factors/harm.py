"""How much does it matter to the model's outputs that one layer loses a part of its own?"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from hasten.core.data import Calibration
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.methods import Context
from hasten.methods._factors.choice import Choice
from hasten.methods._factors.layers import Unfit, find_layers
from hasten.methods._factors.solve import Solved
from hasten.methods._factors.write import write
from hasten.methods._observe.outputs import Outputs

SAMPLES = 16
"""On so many samples at most."""


class Harm:
    """A graph whose layers are factorized one at a time, each in a copy, to see what that does.

    judges: samples that nothing is solved for.
    """

    def __init__(self, graph: Graph, judges: Calibration, context: Context) -> None:
        self._graph = graph
        self.outputs = Outputs(graph, judges, context)

    def weight(self, solved: Solved, offered: Sequence[Choice]) -> float:
        """The error of the model's outputs, over that of the layer's, with a middle one of the offers.

        Both are squared, and parts of the outputs' variance. To first order one is in proportion to the
        other. Raises Unfit where the outputs break.
        """
        chosen = offered[len(offered) // 2]
        error = self.alone(solved, chosen)
        if not isfinite(error):
            raise Unfit("with factors in its place the model's outputs are not finite")
        return error / chosen.lost if chosen.lost else 0.0

    def alone(self, solved: Solved, chosen: Choice) -> float:
        """The error of the model's outputs with this choice for one layer; infinite where it breaks."""
        trial = self._graph.copy()
        layers, _ = find_layers(trial.ir_model.graph, frozenset(), {solved.layer.name}, grouped=True)
        write(Editor(trial), layers[0], solved.factors(chosen), solved.mean)
        return self.outputs.error(trial)
