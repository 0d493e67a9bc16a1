"""Which candidates do the facts suggest, and which not and why?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hasten.core.budget import Objective
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import Considered, Scalar
from hasten.core.target import TargetSpec
from hasten.search.candidate import CLEAN, Candidate
from hasten.search.facts import GraphFacts

_ROUNDING: dict[str, Json] = {"rounding": "outputs"}
"""Takes some seconds once and costs nothing at inference."""

_GROUP = 32
"""Weights that share a scale: with 4 bits the scales are then an eighth of the bytes."""

_REUSE, _CACHE_BYTES = 8.0, 32 << 20
"""Multiply-accumulates a weight below which reading the weights takes longer than multiplying by them, and
bytes of weights that no cache keeps from one inference to the next: CPUs read some ten numbers in the time
of a hundred products."""

_LEAST_SHARE = 0.02
"""Part of the multiply-accumulates below which a method cannot pay: halving them would gain one per cent."""


@dataclass(frozen=True)
class Advice:
    """Candidates in the order in which to try them, and everything considered with its reason.

    early: how many of the candidates, those of exact rewrites and the most promising of each target, come
    before all others.
    """

    candidates: tuple[Candidate, ...]
    considered: tuple[Considered, ...]
    early: int = 0


def default_options(spec: TargetSpec, threads: int, objective: Objective) -> dict[str, Scalar]:
    """The options a target runs with unless the search changes them."""
    if objective == "throughput" and spec.name == "openvino":
        return {"threads": threads, "mode": "throughput"}
    return {"threads": threads}


def advise(
    facts: GraphFacts, specs: Sequence[TargetSpec], threads: int, has_data: bool, objective: Objective
) -> Advice:
    """Derive candidates from what the graph is made of and what the targets offer.

    Cheapest first: exact rewrites, then precisions that are a run-time option, then quantization without
    calibration, then with it; but what promises most on each target comes right after the options, so that
    it has its turn even where a busy machine leaves time for little else.
    """
    static = list(_static(facts, specs, has_data))
    small = [*_few_bits(facts, specs, has_data), *_half_weights(facts, specs)] if objective == "size" else []
    traffic = (
        [*_few_bits(facts, specs, has_data)] if objective != "size" and _waits_for_weights(facts) else []
    )
    promising: dict[str, _Idea] = {}
    for idea in (*small, *static):
        if idea.target is not None:
            promising.setdefault(idea.target.name, idea)
    precisions = list(_reduced_precision(specs))
    # They cost no more than a trial; the second says little that the first does not. Of bytes they save none.
    able = [idea for idea in precisions if idea.step is not None]
    quick = able[:1] if objective != "size" else []
    first = [*_exact(specs), *quick, *promising.values()]
    others = [
        *_beside_static(static, facts, specs),
        *(idea for idea in precisions if idea not in quick),
        *_dynamic(facts, specs),
        *traffic,
        *(idea for idea in (*static, *small) if idea not in first),
    ]
    candidates: list[Candidate] = []
    considered: list[Considered] = []
    for idea in (*first, *others):
        considered.append(Considered(name=idea.name, tried=idea.step is not None, reason=idea.reason))
        if idea.step is not None and idea.target is not None:
            steps = (CLEAN, *idea.step)
            options = {**default_options(idea.target, threads, objective), **dict(idea.options)}
            candidates.append(Candidate(Recipe(steps), idea.target.name, options))
    return Advice(tuple(candidates), tuple(considered), early=len(first))


def given(recipe: Recipe, specs: Sequence[TargetSpec], threads: int, objective: Objective) -> Advice:
    """A recipe of the user's on every target, and nothing else."""
    candidates = tuple(Candidate(recipe, s.name, default_options(s, threads, objective)) for s in specs)
    reason = "the recipe that was given"
    considered = (Considered(name=str(each), tried=True, reason=reason) for each in candidates)
    return Advice(candidates, tuple(considered))


@dataclass(frozen=True)
class _Idea:
    """A candidate in the making; ``step`` None when the facts speak against it."""

    name: str
    reason: str
    target: TargetSpec | None = None
    step: tuple[Step, ...] | None = None
    options: tuple[tuple[str, Scalar], ...] = ()


def _exact(specs: Sequence[TargetSpec]) -> Iterator[_Idea]:
    for spec in specs:
        yield _Idea(f"optimize_graph on {spec.name}", "exact rewrites cost no quality", target=spec, step=())


def _reduced_precision(specs: Sequence[TargetSpec]) -> Iterator[_Idea]:
    for spec in (spec for spec in specs if spec.name == "openvino"):
        for dtype in ("bfloat16", "float16"):
            name, options = f"{dtype} on openvino", (("precision", dtype),)
            if dtype in spec.compute_dtypes:
                yield _Idea(name, f"this CPU computes in {dtype}", target=spec, step=(), options=options)
            else:
                yield _Idea(name, f"this CPU does not compute in {dtype}")


def _dynamic(facts: GraphFacts, specs: Sequence[TargetSpec]) -> Iterator[_Idea]:
    name = "quantize_dynamic"
    if facts.quantized:
        yield _Idea(name, "the model is quantized already")
    elif not facts.products and not facts.recurrent:
        yield _Idea(name, "the model has no MatMul, Gemm or recurrent layer with constant weights")
    elif facts.product_share is not None and facts.product_share < _LEAST_SHARE:
        share = f"{facts.product_share:.1%}"
        yield _Idea(name, f"only {share} of the multiply-accumulates are in layers it quantizes")
    else:
        layers = facts.products + facts.recurrent
        reason = f"{layers} products or recurrent layers with constant weights"
        for spec in specs:
            # OpenVINO quantizes activations itself and wants the weights alone.
            form: dict[str, Json] = {"form": "weights"} if spec.name == "openvino" else {}
            yield _Idea(f"{name} on {spec.name}", reason, target=spec, step=(Step(name, form),))


def _static(facts: GraphFacts, specs: Sequence[TargetSpec], has_data: bool) -> Iterator[_Idea]:
    name = "quantize_static"
    if facts.quantized:
        yield _Idea(name, "the model is quantized already")
        return
    if not facts.weighted_layers:
        yield _Idea(name, "the model has no convolution, MatMul or Gemm with constant weights")
        return
    if not has_data:
        yield _Idea(name, "there are no data to calibrate on")
        return
    reason = f"{facts.weighted_layers} layers that integer kernels can compute"
    by_name = {spec.name: spec for spec in specs}
    static = (Step(name, _ROUNDING),)
    # OpenVINO rounds once behind a convolution and what follows it; this layout leaves it that freedom.
    fused = (Step(name, {**_ROUNDING, "layout": "openvino"}),)
    openvino, onnxruntime = by_name.get("openvino"), by_name.get("onnxruntime")
    ideas = []
    if openvino is not None:
        ideas.append(_Idea(f"{name} for openvino", reason, target=openvino, step=fused))
    for spec in (onnxruntime, openvino):
        if spec is not None:
            ideas.append(_Idea(f"{name} on {spec.name}", reason, target=spec, step=static))
    if (facts.product_share or 0.0) > _LEAST_SHARE:
        for spec in (spec for spec in (openvino, onnxruntime) if spec and "int8" not in spec.compute_dtypes):
            yield _convolved(next(idea for idea in ideas if idea.target == spec))
    yield from ideas


def _convolved(idea: _Idea) -> _Idea:
    """The same with convolutions for products."""
    assert idea.step is not None
    steps = tuple(Step(step.method, {**step.params, "products": "convolutions"}) for step in idea.step)
    why = "this CPU does not multiply bytes, for which integer convolutions have better kernels than products"
    return replace(idea, name=f"{idea.name}, products as convolutions", reason=why, step=steps)


def _beside_static(
    static: Sequence[_Idea], facts: GraphFacts, specs: Sequence[TargetSpec]
) -> Iterator[_Idea]:
    """What promises most on each target, with something for what it leaves in float."""
    for spec in specs:
        best = next((idea for idea in static if idea.target == spec and idea.step is not None), None)
        if best is None or best.step is None:
            continue
        if spec.name == "onnxruntime" and facts.recurrent:
            yield replace(
                best,
                name=f"quantize_static and quantize_dynamic on {spec.name}",
                reason=f"{facts.recurrent} recurrent layers, which have no fixed ranges",
                step=(*best.step, Step("quantize_dynamic")),
            )
        if spec.name == "openvino" and "bfloat16" in spec.compute_dtypes:
            yield replace(
                best,
                name=f"quantize_static with bfloat16 on {spec.name}",
                reason="what stays in float can be computed in bfloat16",
                options=(("precision", "bfloat16"),),
            )


def _waits_for_weights(facts: GraphFacts) -> bool:
    """Whether an inference takes the time of reading the weights from memory, and not of its arithmetic."""
    return facts.reuse is not None and facts.reuse < _REUSE and 4 * facts.parameters > _CACHE_BYTES


def _few_bits(facts: GraphFacts, specs: Sequence[TargetSpec], has_data: bool) -> Iterator[_Idea]:
    if facts.quantized or not facts.weighted_layers or not has_data:
        return
    for spec in specs:
        # Stored in 4 bits only: with integer activations too, runtimes unpack them again in each inference.
        codes: dict[str, Json] = {"bits": 4, "group": _GROUP, "symmetric": False, **_ROUNDING}
        why = "half the bytes of int8, and activations stay in float"
        if _waits_for_weights(facts):
            why = f"its time goes into reading weights ({facts.reuse:.1f} multiply-accumulates each): {why}"
        stored = Step("compress_weights", codes)
        yield _Idea(f"codes of 4 bits on {spec.name}", why, target=spec, step=(stored,))


def _half_weights(facts: GraphFacts, specs: Sequence[TargetSpec]) -> Iterator[_Idea]:
    if facts.float_dtype != "float":
        yield _Idea("cast to float16", f"the weights are {facts.float_dtype} already")
        return
    for spec in specs:
        step = Step("cast", {"dtype": "float16", "what": "weights"})
        yield _Idea(f"float16 weights on {spec.name}", "half the bytes", target=spec, step=(step,))
