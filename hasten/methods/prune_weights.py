"""Zeros in the weights of linear layers, one by one or N of every M; by itself it makes nothing faster.

The file gets smaller once it is compressed (``.onnx.zst``). CPU runtimes multiply zeros as they do other
numbers; what really profits, and from what, is in the card, and the note of each application says so.

Sources: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks"; Mishra et al.
2021, "Accelerating Sparse Deep Neural Networks"; Frantar and Alistarh 2023, "SparseGPT"; Sun et al. 2023, "A
Simple and Effective Pruning Approach for Large Language Models"; further ones in ``sparsity``,
``sparse_solve`` and ``importance`` of ``hasten.numerics``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import partial
from typing import Annotated, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from hasten.core.data import Array, Calibration
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.layer import OPERATORS
from hasten.graph.names import layer_name, name_nodes
from hasten.methods import Amount, Change, Context, Facts
from hasten.methods._observe.biases import Bias, find_bias
from hasten.methods._observe.moments import observe
from hasten.methods._observe.weight_gradients import weight_gradients
from hasten.methods._sparse.choose import OBSERVED, Importance, Scorer, mask
from hasten.methods._sparse.inputs import LARGEST, Observe, with_inputs
from hasten.methods._sparse.weights import Unfit, Weight, find
from hasten.numerics.covariance import about_mean
from hasten.numerics.importance import NEED_GRADIENTS, NEED_SQUARES, Normalization, normalized
from hasten.numerics.rounding import Moments, bias_shift
from hasten.numerics.sparse_solve import error, prune, shrunk, solve_kept
from hasten.numerics.sparsity import Mask, ranked_together

FACTS = Facts(
    summary="zeros in the weights of linear layers: a smaller compressed file, nothing faster on CPUs",
    exact=False,
    amount=Amount(parameter="sparsity", says="zeros"),
)

_UNSTRUCTURED = "unstructured"
_USUAL = 0.5

Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Params:
    """Hyper-parameters of ``prune_weights``.

    pattern: ``unstructured``, zeros anywhere; or ``N:M``, at most N of every M weights that one output
        multiplies with M consecutive input channels are not zero (``2:4``).
    sparsity: the part of the weights that becomes zero; None: 0.5. sparsity_of: the same for single layers,
        by name, where it differs; a weight that layers share takes the least. Not for ``N:M``, which says it.
    scope: ``layer``: the same part of each layer; ``global``: the least important of all layers together.
    normalization: of a layer's scores before layers are ranked together: ``none``, by their ``mean``, ``max``
        or ``sum``, or ``lamp``.
    importance: what a weight is kept for, see the card. ``wanda`` and ``outputs`` look at what layers read on
        calibration samples; ``gradient``, ``taylor`` and ``fisher`` at gradients there, which takes PyTorch.
    solve: the weights that stay are solved for so that outputs on the samples stay; ``outputs`` always does.
    correct_bias: biases keep the mean of outputs; None: where layers are observed anyway.
    samples: at most this many calibrate. min_elements: weights of fewer numbers stay as they are. exclude:
        names of layers to leave.
    """

    pattern: Annotated[str, Field(pattern=r"^(unstructured|[1-9][0-9]?:[1-9][0-9]?)$")] = _UNSTRUCTURED
    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = None
    sparsity_of: Mapping[str, Share] = field(default_factory=dict, hash=False)
    scope: Literal["layer", "global"] = "layer"
    normalization: Normalization | None = None
    importance: Importance = "l2"
    solve: bool = False
    correct_bias: bool | None = None
    samples: Annotated[int, Field(ge=1)] = 200
    min_elements: Annotated[int, Field(ge=0)] = 1024
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _of_the_pattern(self) -> Params:
        """Refuse what the pattern or the scope would ignore."""
        if self.group is not None:
            kept, of = self.group
            if kept >= of:
                raise ValueError(f"pattern {self.pattern} leaves no zeros; N must be less than M")
            if self.sparsity is not None or self.sparsity_of:
                raise ValueError(f"pattern {self.pattern} says how many zeros; leave sparsity out")
            if self.scope == "global":
                raise ValueError(f"pattern {self.pattern} is the same in every layer; leave scope out")
        if self.normalization is not None and self.scope == "layer":
            raise ValueError("normalization only matters to scope: global; leave it out")
        return self

    @property
    def group(self) -> tuple[int, int] | None:
        """N and M."""
        if self.pattern == _UNSTRUCTURED:
            return None
        kept, of = self.pattern.split(":")
        return int(kept), int(of)

    @property
    def observes(self) -> bool:
        """Whether it is looked at what layers read."""
        return self.importance in OBSERVED or self.solve or bool(self.correct_bias)

    @property
    def needs_gradients(self) -> bool:
        """Whether a pass back through the graph is needed."""
        return self.importance in NEED_GRADIENTS | NEED_SQUARES


def apply(graph: Graph, params: Params, context: Context) -> Change:
    """Put zeros into every weight that qualifies.

    Raises MethodError without samples where parameters need them, and for operators without a gradient;
    Unavailable where gradients are needed and PyTorch is missing.
    """
    samples = None
    if params.observes or params.needs_gradients:
        if context.calibration is None or not len(context.calibration):
            raise MethodError("prune_weights has no samples to look at layers on; give --data")
        samples = context.calibration.take(params.samples)
    changed = graph.copy()
    name_nodes(changed)
    passes.LiftConstantsToInitializersPass()(changed.ir_model)
    editor = Editor(changed)
    layers = {layer_name(node) for node in editor.nodes(*OPERATORS)}
    weights = find(editor, frozenset(params.exclude), params.min_elements)
    work = _Work(editor, params, context.seed)
    if samples is not None and params.needs_gradients:
        work.look_at_gradients(weights, samples, context)
    watch: Observe | None = None
    if samples is not None and params.observes:
        watch = partial(observe, graph, samples=samples, context=context, largest=LARGEST)
    if params.scope == "global":
        work.rank(weights, watch)
    for weight, moments in with_inputs(weights, editor.main, watch):
        context.progress(weight.name, weight.number / len(weights))
        work.prune(weight, moments)
    skipped = tuple(editor.findings.skipped)
    unknown = tuple(_unknown(params, layers))
    if not editor.findings.sites:
        return Change(graph, skipped=skipped, notes=unknown)
    return Change(changed, tuple(editor.findings.sites), skipped, (*work.notes(), *unknown))


class _Work:
    """One application: chooses the zeros of each weight and puts them in."""

    def __init__(self, editor: Editor, params: Params, seed: int) -> None:
        self._editor = editor
        self._params = params
        self._seed = seed
        self._scorer = Scorer(params.importance, {}, seed)
        self._ranked: dict[ir.Value, Mask] = {}
        self._zeros = self._all = 0

    def look_at_gradients(self, weights: list[Weight], samples: Calibration, context: Context) -> None:
        """Gather the gradients that the importance is computed from."""
        names = [str(weight.value.name) for weight in weights]
        loss: Literal["norm", "error"] = "error" if self._params.importance in NEED_SQUARES else "norm"
        found = weight_gradients(self._editor.graph, names, samples, context, loss)
        self._scorer = Scorer(self._params.importance, found, self._seed)

    def rank(self, weights: list[Weight], watch: Observe | None) -> None:
        """Choose the zeros of all layers together; those with a sparsity of their own have no part in it."""
        how = self._params.normalization or "lamp"
        watched = watch if self._params.importance in OBSERVED else None
        common = [weight for weight in weights if self._own_sparsity(weight) is None]
        scored: list[tuple[ir.Value, Array]] = []
        for weight, moments in with_inputs(common, self._editor.main, watched):
            try:
                found = self._scorer.of(weight, weight.rows, moments)
            except Unfit:
                continue  # said when the weight itself is looked at
            absent = found < 0
            flat = normalized(np.maximum(found, 0.0).reshape(-1), how).reshape(found.shape)
            scored.append((weight.value, np.where(absent, -1.0, flat)))
        zeros = round((self._params.sparsity or _USUAL) * sum(scores.size for _, scores in scored))
        masks = ranked_together([scores for _, scores in scored], zeros)
        self._ranked = {value: kept for (value, _), kept in zip(scored, masks, strict=True)}

    def prune(self, weight: Weight, moments: Moments | None) -> None:
        """Put zeros into one weight, or record why not."""
        try:
            told = self._changed(weight, moments)
        except Unfit as unfit:
            for user in weight.users:
                self._editor.refused(user, str(unfit))
            return
        for user in weight.users:
            self._editor.changed(user, told)

    def _changed(self, weight: Weight, moments: Moments | None) -> str:
        self._check_pattern(weight)
        rows = weight.rows
        bias = None if moments is None else self._bias(weight)
        hessian = None if moments is None else _hessian(moments, bias)
        made = self._made(weight, rows, moments, hessian).astype(np.float32)
        if np.array_equal(made == 0, rows == 0):
            raise Unfit("as many of its weights are zero already")
        weight.write(made)
        zeros = int(np.sum(made == 0))
        self._zeros, self._all = self._zeros + zeros, self._all + made.size
        told = f"{100 * zeros / made.size:.1f} % zero"
        if moments is not None and hessian is not None:
            if bias is not None:
                bias.shift(self._editor, bias_shift(rows - made, moments).reshape(-1))
            whole = error(rows, moments.second)
            if whole > 0:
                kept = max(0.0, 1.0 - error(rows.astype(np.float64) - made, hessian) / whole)
                told += f", keeps {100 * kept:.1f} % of its outputs"
        elif self._params.observes:
            told += ", by magnitude" if self._params.importance in OBSERVED else ""
            told += " (what its layer multiplies cannot be observed)"
        return told

    def _made(self, weight: Weight, rows: Array, moments: Moments | None, hessian: Array | None) -> Array:
        """The rows with zeros in them."""
        group, kind = self._params.group, self._params.importance
        zeros = self._count(weight)
        place = weight.form.by_position() if group is not None else np.arange(rows.shape[2])
        back = np.argsort(place)
        solved = kind == "outputs" or self._params.solve
        if hessian is not None and moments is not None and solved:
            hessian = shrunk(hessian if group is None else hessian[:, place][:, :, place], moments.count)
        if kind == "outputs" and hessian is not None:
            return prune(rows[:, :, place], hessian, zeros, group)[:, :, back]
        kept = self._ranked.get(weight.value)
        if kept is None:
            scores = self._scorer.of(weight, rows, moments)
            kept = mask(kind if moments is not None else "l2", scores[:, :, place], zeros, group)[:, :, back]
        kept = kept & (rows != 0)
        if self._params.solve and hessian is not None:
            return solve_kept(rows[:, :, place], kept[:, :, place], hessian)[:, :, back]
        return np.where(kept, rows, 0)

    def _count(self, weight: Weight) -> int:
        """How many weights are to be zero."""
        if weight.value in self._ranked:
            zeros = int(np.sum(~self._ranked[weight.value]))
        else:
            own = self._own_sparsity(weight)
            zeros = round(((self._params.sparsity or _USUAL) if own is None else own) * weight.size)
        if not zeros and self._params.group is None:
            raise Unfit("none of its weights is to be zero")
        return zeros

    def _own_sparsity(self, weight: Weight) -> float | None:
        names = [layer_name(user) for user in weight.users]
        found = [self._params.sparsity_of[name] for name in names if name in self._params.sparsity_of]
        return min(found, default=None)

    def _check_pattern(self, weight: Weight) -> None:
        if self._params.group is not None and weight.form.channels % self._params.group[1]:
            raise Unfit(
                f"the {weight.form.channels} channels that an output reads do not divide into groups of "
                f"{self._params.group[1]}"
            )

    def _bias(self, weight: Weight) -> Bias | None:
        return None if self._params.correct_bias is False else find_bias(weight.node, weight.outputs)

    def notes(self) -> list[str]:
        """What zeros must not be taken for."""
        note = (
            f"stored smaller, not computed faster: {100 * self._zeros / self._all:.1f} % of {self._all:,} "
            "weights are zero, of which only a compressed file (.onnx.zst) makes use; CPU runtimes multiply "
            "by zeros as by other numbers"
        )
        if self._params.group == (2, 4):
            note += "; NVIDIA GPUs from Ampere on have products for 2:4, through TensorRT"
        return [note]


def _hessian(moments: Moments, bias: Bias | None) -> Array:
    """E[x xᵀ], about the mean where a bias makes up for what the mean of outputs changes by."""
    return moments.second if bias is None else about_mean(moments.second, moments.mean)


def _unknown(params: Params, layers: set[str]) -> list[str]:
    named = {"exclude": params.exclude, "sparsity_of": params.sparsity_of}
    return [
        f"{parameter} names no layer: {name}"
        for parameter, names in named.items()
        for name in sorted(set(names) - layers)
    ]
