"""Ways to make a model smaller by a share: which steps that takes, and where in a recipe they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hasten import methods
from hasten.core.errors import TrialError
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import Trial
from hasten.numerics.latency import Time
from hasten.search.aligned import Alignment
from hasten.search.candidate import CLEAN, Candidate
from hasten.search.facts import GraphFacts
from hasten.search.layers import Seen, times
from hasten.search.shares import Size
from hasten.search.trial import Lab

_ATTENDING = 0.5
"""Share of the multiply-accumulates in products beyond which a model is taken for a transformer."""
_LEAN = 0.2
"""Share of the convolutions that work in groups beyond which a net was made to have no channel to spare."""

Family: TypeAlias = Literal["narrower", "shallower", "separable", "thinner", "searched"]
_METHODS: Mapping[Family, frozenset[str]] = {
    "narrower": frozenset({"prune_channels", "prune_heads"}),
    "shallower": frozenset({"prune_layers"}),
    "separable": frozenset({"restructure"}),
    "thinner": frozenset({"factorize"}),
    "searched": frozenset({"search_structure"}),
}
_ALL = frozenset().union(*_METHODS.values())
_LEARNING = frozenset({"reconstruct", "distill", "finetune"})
"""What teaches a smaller model, directly behind the last of what made it smaller."""
SLIM = (
    Step("prune_channels", {"macs": 0.3, "importance": "l1", "scope": "local", "fit": False}),
    Step("prune_heads", {"heads": 0.5, "importance": "l1", "scope": "local", "fit": False}),
)
"""What makes about half of all widths in a moment, of no use but to see how the times of layers fall."""
_ASIDE = 0.3
"""Part of the time that may go by to make it."""


def families(facts: GraphFacts) -> tuple[Family, ...]:
    """The ways to make such a model smaller, that which promises most first.

    A branch of a transformer takes the time of its softmax and transposes with it, and of many alike one can
    be spared. In a convolutional net each block does what no other does, and its channels are many; but
    where they are convolved in groups they are few, and separable already.
    """
    attending = facts.product_share is not None and facts.product_share > _ATTENDING
    if attending or facts.grouped > _LEAN * facts.convolutions:
        return "shallower", "narrower", "thinner", "searched"
    return "narrower", "shallower", "thinner", "searched", "separable"


@dataclass(frozen=True)
class Smaller:
    """A recipe that leaves a share of the model, the steps in it that do, and the size of what they make."""

    recipe: Recipe
    steps: tuple[Step, ...]
    size: Size


def smaller(
    lab: Lab, family: Family, share: float, place: Trial, left_s: float, alignment: Alignment
) -> Smaller | None:
    """The recipe of ``place`` with this share left by a family, in place of what it left before.

    What it had learned since it was made smaller falls away; what a quantized one learned stays. None where
    nothing can be made smaller so. left_s: the time there is to make things smaller. alignment: of widths, as
    far as it was measured.
    """
    # What is searched decides about all that the other families take away, and so takes their place.
    head, behind = _parted(place.recipe, _ALL if family == "searched" else _METHODS[family])
    steps: tuple[Step, ...] = ()
    try:
        for step in _steps(lab, family, round(share, 3), place, left_s, alignment):
            # Each behind those before it, as the recipe will have them: nothing is then made twice.
            if _changes(lab, Recipe((*head, *steps, step))):
                steps = (*steps, step)
        made = lab.workshop.cost(lab.workshop.apply(Recipe((*head, *steps)))) if steps else None
    except TrialError:
        return None
    if made is None:
        return None
    return Smaller(Recipe((*head, *steps, *behind)), steps, (made.macs, made.parameters))


def taught(recipe: Recipe, step: Step) -> Recipe:
    """The recipe with a step that teaches what it made smaller, before that is rounded."""
    at = 1 + max(i for i, each in enumerate(recipe.steps) if each.method in _ALL)
    return Recipe((*recipe.steps[:at], step, *recipe.steps[at:]))


def whole(recipe: Recipe) -> Recipe:
    """The recipe without what makes the model smaller, and what mends that."""
    head, behind = _parted(recipe, _ALL)
    return Recipe((*head, *behind))


def _steps(
    lab: Lab, family: Family, share: float, place: Trial, left_s: float, alignment: Alignment
) -> Iterator[Step]:
    size = lab.budget.objective == "size"
    # Bytes follow from parameters, time from multiply-accumulates or times.
    timed = {} if size or family == "shallower" else _times(lab, place, left_s)
    asked = timed and family != "separable"  # whose widths stay as they are
    block = alignment.of(lab, place, _parted(place.recipe, _ALL)[1], left_s) if asked else None
    aligned: dict[str, Json] = {} if block is None else {"align": block}
    match family:
        case "narrower":
            yield Step(
                "prune_channels", {"parameters": share} if size else {"macs": share, **timed, **aligned}
            )
            yield Step("prune_heads", {"heads": share})
        case "shallower":
            yield Step("prune_layers", {"ratio": round(1 - share, 3)})
        case "separable":
            yield Step("restructure", {"macs": share, **timed})
        case "thinner":
            yield Step("factorize", {"rank": "macs", "keep": share, **timed, **aligned})
        case "searched" if not size:  # it counts time or multiply-accumulates, never bytes
            yield Step("search_structure", {"left": share, "tries": 2, **timed, **aligned})


def _times(lab: Lab, place: Trial, left_s: float) -> dict[str, Json]:
    """What the layers of the whole model take there, and of a narrower one if there is time to make it.

    Nothing where it is not known.
    """
    head, behind = _parted(place.recipe, _ALL)
    # What learns takes long, and is as fast before.
    runs = tuple(step for step in behind if "gradients" not in methods.find(step.method).FACTS.needs)
    versions = [Recipe((*head, *behind))]
    if _patient(lab, Recipe((*head, *runs)), left_s):
        slim = tuple(step for step in SLIM if _changes(lab, Recipe((*head, step))))
        versions += [Recipe((*head, *slim, *runs))] if slim else []
    candidates = [Candidate(recipe, place.target, place.options) for recipe in versions]
    for count in range(len(candidates), 0, -1):  # the narrower one may fail where the whole runs
        try:
            found = times(*_seen(lab, candidates[:count]))
        except TrialError:
            continue
        rounded: dict[str, Json] = {name: _rounded(time) for name, time in found.items()}
        return {"times": rounded} if rounded else {}
    return {}


def _patient(lab: Lab, recipe: Recipe, left_s: float) -> bool:
    """Whether such a recipe is applied once more in a small part of the time."""
    try:
        return lab.workshop.apply(recipe).seconds <= _ASIDE * left_s
    except TrialError:
        return False


def _seen(lab: Lab, candidates: Sequence[Candidate]) -> Iterator[Seen]:
    layers = [lab.workshop.cost(lab.workshop.apply(each.recipe)).layers for each in candidates]
    yield from zip(layers, lab.kernels(*map(lab.subject, candidates)), strict=True)


def _rounded(time: Time) -> Json:
    each = [float(f"{us:.3g}") for us in (time if isinstance(time, tuple) else (time,))]
    return each[0] if len(each) == 1 else [*each]


def _changes(lab: Lab, recipe: Recipe) -> bool:
    try:
        return lab.workshop.apply(recipe).last_effective
    except TrialError:
        return False


def _parted(recipe: Recipe, gone: Set[str]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The exact steps and what makes the model smaller but for these methods; and what comes behind."""
    before = (CLEAN.method, *(step.method for step in recipe.steps))
    behind = tuple(
        step
        for step, last in zip(recipe.steps, before, strict=False)
        if step.method not in {CLEAN.method, *_ALL} and not (step.method in _LEARNING and last in _ALL)
    )
    return (CLEAN, *(s for s in recipe.steps if s.method in _ALL and s.method not in gone)), behind
