"""What can be done to a model? One file a method; here the contract, the table, and ``apply``.

A method's module has

- ``Params``: a frozen, keyword-only pydantic dataclass of hyper-parameters, validated on construction;
- ``FACTS``: what it needs and what it yields (``Facts``);
- ``apply(graph, params, context) -> Change``: never edits the graph it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias
from typing import cast as assume  # the name `cast` is taken by the submodule once it is imported

from pydantic import Field, TypeAdapter, ValidationError

from hasten import train
from hasten.core.data import Calibration
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import Site, Skip
from hasten.graph import Graph

TABLE = {
    "optimize_graph": "hasten.methods.optimize_graph",
    "fold_batchnorm": "hasten.methods.fold_batchnorm",
    "prune_layers": "hasten.methods.prune_layers",
    "prune_weights": "hasten.methods.prune_weights",
    "factorize": "hasten.methods.factorize",
    "restructure": "hasten.methods.restructure",
    "equalize": "hasten.methods.equalize",
    "sparse_learning": "hasten.methods.sparse_learning",
    "train_supernet": "hasten.methods.train_supernet",
    "prune_channels": "hasten.methods.prune_channels",
    "prune_heads": "hasten.methods.prune_heads",
    "search_structure": "hasten.methods.search_structure",
    "quantize_static": "hasten.methods.quantize_static",
    "reconstruct": "hasten.methods.reconstruct",
    "quantize_aware": "hasten.methods.quantize_aware",
    "quantize_dynamic": "hasten.methods.quantize_dynamic",
    "cast": "hasten.methods.cast",
    "compress_weights": "hasten.methods.compress_weights",
    "iterate": "hasten.methods.iterate",
    "finetune": "hasten.methods.finetune",
    "distill": "hasten.methods.distill",
}
"""Name to module. Other packages add theirs through the entry point group ``hasten.methods``."""

_Taken: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Times: TypeAlias = Mapping[str, _Taken | tuple[_Taken, _Taken, _Taken, _Taken]]
"""What layers take where the model will run, by name and in any one unit. Of some perhaps also what a
narrower version takes, and its shares of the work: ``hasten.numerics.latency.Time``."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Which hyper-parameter of a method that takes something away says how much.

    says: ``left``, the share that is left of what the graph it is given has; ``removed``, the share of that
    which goes; ``zeros``, the share of all weights that is zero afterwards. given: other hyper-parameters
    without which it says nothing.
    """

    parameter: str
    says: Literal["left", "removed", "zeros"]
    given: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a method needs and what it yields; the order of a recipe is derived from these.

    exact: the graph computes the same function afterwards, to rounding.
    needs: of ``calibration``, ``labels``, ``gradients``.
    needs_float: it works on float weights, so it must come before a method that yields integers.
    yields: dtypes that compute or are stored afterwards and were not before.
    amount: of a method that can be applied again and again to take away more.
    moves: the hyper-parameter, if there is one, that lays inner values out differently.
    """

    summary: str
    exact: bool
    needs: frozenset[str] = frozenset()
    needs_float: bool = True
    yields: frozenset[str] = frozenset()
    amount: Amount | None = None
    moves: str | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method may use besides the graph.

    calibration: the only data a method may see, or None when there are none. original: the graph the recipe
    began with, for methods that learn from it; None: the one that is given.
    work: an existing folder for intermediate files. progress: called with what is being done and how much
    of it is (0 to 1).
    """

    calibration: Calibration | None
    work: Path
    original: Graph | None = None
    seed: int = 0
    threads: int = 1
    batch: int = 1
    progress: Callable[[str, float], None] = lambda what, done: None


@dataclass(frozen=True)
class Change:
    """A new graph, the sites that changed, and the ones left with the reason.

    left: share of what the method's ``Amount`` counts that is really left; None: as asked.
    """

    graph: Graph
    sites: tuple[Site, ...] = ()
    skipped: tuple[Skip, ...] = ()
    notes: tuple[str, ...] = field(default=())
    left: float | None = None

    @property
    def effective(self) -> bool:
        """Whether anything changed."""
        return bool(self.sites)


class Method(Protocol):
    """The shape of a method's module."""

    Params: type[Any]
    FACTS: Facts

    def apply(self, graph: Graph, params: Any, context: Context) -> Change:
        """Return the changed graph; raises MethodError when the method cannot work on this graph at all."""


def names() -> tuple[str, ...]:
    """All registered methods, hasten's own first."""
    return (*TABLE, *(e.name for e in entry_points(group="hasten.methods") if e.name not in TABLE))


def find(name: str) -> Method:
    """The module of a method; raises RecipeError for an unknown name."""
    if name in TABLE:
        return assume("Method", import_module(TABLE[name]))
    for entry in entry_points(group="hasten.methods"):
        if entry.name == name:
            return assume("Method", entry.load())
    raise RecipeError(f"unknown method {name!r}; `hasten methods` lists {', '.join(names())}")


def card(name: str) -> str:
    """A method's card as Markdown: the idea, its formula, parameters and sources; raises RecipeError."""
    module = find(name)
    packaged = Path(__file__).parent / "cards" / f"{name}.md"
    in_checkout = Path(__file__).parents[2] / "docs" / "methods" / f"{name}.md"
    for path in (packaged, in_checkout):
        if name in TABLE and path.is_file():
            return path.read_text(encoding="utf-8")
    # A method from another package brings its card as its docstring.
    return module.__doc__ or module.FACTS.summary


def parameters(step: Step, where: str = "step") -> Any:
    """The validated hyper-parameters of a step; raises RecipeError with the path of the key."""
    method = find(step.method)
    try:
        return TypeAdapter(method.Params).validate_python(dict(step.params))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, step.method, *(str(part) for part in first["loc"])])
        why = first["msg"].removeprefix("Value error, ")  # what pydantic puts before a method's own words
        raise RecipeError(f"{key}: {why} (given {first.get('input')!r})") from error


def comparable(step: Step) -> Step:
    """The step whose inner values can be compared with those before it, by their names.

    It computes the same numbers, laid out as they were.
    """
    moves = find(step.method).FACTS.moves
    return Step(step.method, {name: value for name, value in step.params.items() if name != moves})


def validate(recipe: Recipe) -> None:
    """Check every step of a recipe before any work starts; raises RecipeError."""
    for i, step in enumerate(recipe.steps):
        parameters(step, f"steps[{i}]")


def apply(recipe: Recipe, graph: Graph, context: Context) -> Change:
    """Apply a recipe step by step; sites, skips and notes accumulate.

    Raises RecipeError for malformed steps, and Unavailable where training needs what is not installed, before
    any work; MethodError when a step cannot be applied.
    """
    validate(recipe)
    context = replace(context, original=context.original or graph)
    change = Change(graph)
    for i, step in enumerate(recipe.steps):
        needs = find(step.method).FACTS.needs
        if "calibration" in needs and not context.calibration:
            raise MethodError(f"steps[{i}].{step.method} needs data to calibrate on; give --data")
        if "gradients" in needs:
            train.require()
    for i, step in enumerate(recipe.steps):
        made = find(step.method).apply(change.graph, parameters(step, f"steps[{i}]"), context)
        notes = change.notes + made.notes + (() if made.effective else _misplaced(recipe.steps[: i + 1]))
        change = Change(made.graph, change.sites + made.sites, change.skipped + made.skipped, notes)
    return change


def _misplaced(steps: Sequence[Step]) -> tuple[str, ...]:
    """How to mend it where the last step found nothing to do because one before it left no float weights."""
    *before, last = steps
    yields = [step.method for step in before if find(step.method).FACTS.yields and step.method != last.method]
    if not yields or not find(last.method).FACTS.needs_float:
        return ()
    return (f"{last.method} changed nothing; it needs float weights, so put it before {yields[0]}",)
