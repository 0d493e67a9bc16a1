"""How is a graph simplified without changing what it computes? One rewrite a file.

Each file states its algebra and its check, and has one function ``apply(graph) -> Findings`` that edits the
graph it is given. ``ALL`` is the order in which ``hasten.methods.optimize_graph`` applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from hasten.graph import Graph
from hasten.graph.editor import Findings
from hasten.rewrites import (
    bound_masks,
    fix_initializers,
    fold_affine,
    fold_affine_before,
    fold_constants,
    fuse_gelu,
    fuse_hardswish,
    fuse_layer_norm,
    fuse_pad,
    inline_functions,
    merge_affine,
    merge_branches,
    merge_casts,
    merge_linear,
    merge_reshapes,
    merge_slices,
    merge_transposes,
    one_hot_gather,
    raise_opset,
    remove_noops,
    remove_unused,
    share_duplicates,
    share_weights,
    simplify_shapes,
)

Rewrite: TypeAlias = Callable[[Graph], Findings]

ALL: Mapping[str, Rewrite] = {
    "inline_functions": inline_functions.apply,
    "fix_initializers": fix_initializers.apply,
    "remove_unused": remove_unused.apply,  # a dead user would stand in the way of the others' checks
    "simplify_shapes": simplify_shapes.apply,  # before raise_opset, which needs ranks
    "raise_opset": raise_opset.apply,  # before the fusions, whose operators it brings
    "fold_constants": fold_constants.apply,
    "remove_noops": remove_noops.apply,
    "share_duplicates": share_duplicates.apply,
    "fuse_layer_norm": fuse_layer_norm.apply,  # the fusions before the folding, which takes their parts away
    "fuse_gelu": fuse_gelu.apply,
    "fuse_hardswish": fuse_hardswish.apply,
    "one_hot_gather": one_hot_gather.apply,
    "merge_casts": merge_casts.apply,
    "merge_transposes": merge_transposes.apply,
    "merge_reshapes": merge_reshapes.apply,
    "merge_slices": merge_slices.apply,
    "bound_masks": bound_masks.apply,
    "fuse_pad": fuse_pad.apply,
    "fold_affine": fold_affine.apply,
    "merge_affine": merge_affine.apply,
    "fold_affine_before": fold_affine_before.apply,
    "merge_branches": merge_branches.apply,  # after the folding, which takes normalizations out of branches
    "merge_linear": merge_linear.apply,
    "share_weights": share_weights.apply,  # after the folding, which changes only weights of one layer's own
}
"""Name to function, in order. Applied until none of them changes anything, with ``remove_unused`` after each
that changed something."""

__all__ = ["ALL", "Findings", "Rewrite"]
