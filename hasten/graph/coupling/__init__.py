"""Which channels of which weights stand or fall together? And a graph without some of them.

Every entry of every axis of every value has a number. One small file a family of operators says which of them
an operator ties together, and which have to stay; what is connected in the end is a *unit*, which can be
removed as a whole. An operator without a rule leaves all that it reads and makes whole: it never breaks the
model. The law, tested on real and on generated models: a graph without some units computes what the whole
graph computes with their weights set to zero.

Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", section 3, poses the problem by
dependencies between layers; here it is posed by entries of axes, so that splits, joins, reshapes and sharing
need no cases of their own.
"""

from __future__ import annotations

from hasten.graph.coupling.axes import Side
from hasten.graph.coupling.coupling import Coupling, Part, Width, couple, prepare
from hasten.graph.coupling.shrink import mask, shrink

__all__ = ["Coupling", "Part", "Side", "Width", "couple", "mask", "prepare", "shrink"]
