"""Recipes become graphs and graphs become artifacts, each in a process of its own.

The functions at the top run in a child process: what a method or an exporter does to itself, it does there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from hasten.core.data import Calibration, Roles
from hasten.core.errors import InputError, TrialError, WorkerError
from hasten.core.layers import LayerCost
from hasten.core.recipe import Json, Recipe, Step
from hasten.core.record import Artifact, Scalar, Site, Skip
from hasten.process import Worker
from hasten.search.candidate import CLEAN

if TYPE_CHECKING:
    from hasten.methods import Context

_TIMEOUT_S = 1800.0


def method_context(
    calibration: Calibration | None, work: str, original: str, settings: Mapping[str, int]
) -> Context:
    """What methods are applied with, from what ``Workshop.place`` says."""
    from hasten.graph import Graph
    from hasten.methods import Context

    return Context(
        calibration=calibration,
        work=Path(work),
        original=Graph.open(original),
        seed=settings["seed"],
        threads=settings["threads"],
        batch=settings["batch"],
    )


def apply_in_child(
    graph: str,
    store: str | None,
    work: str,
    original: str,
    settings: dict[str, int],
    step: dict[str, dict[str, Json]],
    out: str,
) -> dict[str, Any]:
    """Child side: apply one step to a graph file and write the changed graph."""
    from hasten.graph import Graph
    from hasten.methods import apply

    roles = Roles.open(Path(store)) if store else None
    context = method_context(roles.calibration if roles else None, work, original, settings)
    change = apply(Recipe([step]), Graph.open(graph), context)
    change.graph.stripped().write(out)
    return {
        "sites": [s.model_dump() for s in change.sites],
        "skipped": [s.model_dump() for s in change.skipped],
        "notes": list(change.notes),
    }


def export_in_child(
    graph: str, target: str, options: dict[str, Scalar], shapes: dict[str, list[int]], folder: str
) -> dict[str, Any]:
    """Child side: export a graph file for a target, its inputs fixed to ``shapes`` where given."""
    from hasten import targets
    from hasten.graph import Graph
    from hasten.loaders.shapes import fix_shapes

    opened = Graph.open(graph)
    if shapes:
        opened = fix_shapes(opened, {name: tuple(shape) for name, shape in shapes.items()})
    made = targets.find(target).export(opened, Path(folder), targets.options(target, options))
    return made.model_dump()


def cost_in_child(graph: str, store: str | None) -> dict[str, Any]:
    """Child side: cost per layer, at the shapes of the first calibration sample."""
    from hasten.graph import Graph
    from hasten.graph.cost import layer_costs, nonzero_parameters

    opened = Graph.open(graph)
    feeds = None
    if store:
        batch = next(Roles.open(Path(store)).calibration.take(1).batches_for(opened.inputs), None)
        feeds = batch.feeds(opened.inputs) if batch else None
    layers = layer_costs(opened, feeds)
    return {
        "layers": [layer.model_dump() for layer in layers],
        "parameters": opened.parameters,
        "nonzero_parameters": nonzero_parameters(opened),
    }


def training_in_child(graph: str, store: str, settings: dict[str, int]) -> dict[str, float | None]:
    """Child side: the fields of ``Training`` for a graph file."""
    from hasten import train
    from hasten.graph import Graph

    opened, data, threads = Graph.open(graph), Roles.open(Path(store)).calibration, settings["threads"]
    found: dict[str, float | None] = {"plain_s": train.seconds_per_sample(opened, data, threads=threads)}
    try:
        normalized_s = train.seconds_per_sample(opened, data, normalize=True, threads=threads)
    except (InputError, TrialError):
        return found  # no convolutions, or no batches: it can still learn without
    return {**found, "normalized_s": normalized_s}


@dataclass(frozen=True)
class Built:
    """A recipe applied: the graph file and what changed; whether its last step did anything.

    seconds: what applying all of it took.
    """

    path: Path
    sites: tuple[Site, ...] = ()
    skipped: tuple[Skip, ...] = ()
    notes: tuple[str, ...] = ()
    last_effective: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Training:
    """What training costs a calibration sample, in seconds.

    normalized_s: with normalizations while it learns (``hasten.train.normalized``); None where there can be
        none.
    """

    plain_s: float
    normalized_s: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a graph costs at batch 1."""

    layers: tuple[LayerCost, ...]
    parameters: int
    nonzero_parameters: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers."""
        return sum(layer.macs for layer in self.layers)


class Workshop:
    """Applies recipes to one original and exports the results; each prefix is applied once.

    store: the folder of the data, or None. work: where graphs and artifacts are kept during the run.
    """

    def __init__(self, original: Path, store: Path | None, work: Path, settings: Mapping[str, int]) -> None:
        self._original = original
        self._store = store
        self._work = work
        self._settings = dict(settings)
        self._built: dict[str, Built] = {Recipe().fingerprint: Built(original)}
        self._costs: dict[str, Cost] = {}
        self._training: Training | None = None
        self._child: Worker | None = None
        self._graphs = work / "graphs"
        self._graphs.mkdir(parents=True, exist_ok=True)

    def ask(self, function: str, arguments: Mapping[str, Json], timeout_s: float = _TIMEOUT_S) -> Any:
        """Call ``hasten.search.<function>`` in the workshop's child; one that died is replaced."""
        if self._child is None:
            self._child = Worker("the workshop")
        try:
            return self._child.request(f"hasten.search.{function}", arguments, timeout_s)
        except WorkerError:
            self.close()
            raise

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def place(self, built: Built) -> dict[str, Json]:
        """Where a child finds a graph and the data, and the settings it applies methods with."""
        store = str(self._store) if self._store else None
        settings: dict[str, Json] = dict(self._settings)
        return {
            "graph": str(built.path),
            "original": str(self._original),
            "store": store,
            "work": str(self._graphs),
            "settings": settings,
        }

    def apply(self, recipe: Recipe) -> Built:
        """The graph of a recipe; raises TrialError when a step cannot be applied."""
        if recipe.fingerprint not in self._built:
            before = self.apply(Recipe(recipe.steps[:-1]))
            self._built[recipe.fingerprint] = self._step(before, recipe)
        return self._built[recipe.fingerprint]

    def _step(self, before: Built, recipe: Recipe) -> Built:
        step: Step = recipe.steps[-1]
        began = monotonic()
        out = self._graphs / f"{recipe.fingerprint}.onnx"
        answer = self.ask(
            "build:apply_in_child",
            {**self.place(before), "step": {step.method: dict(step.params)}, "out": str(out)},
        )
        sites = tuple(Site(**s) for s in answer["sites"])
        return Built(
            out,
            before.sites + sites,
            before.skipped + tuple(Skip(**s) for s in answer["skipped"]),
            before.notes + tuple(answer["notes"]),
            last_effective=bool(sites),
            seconds=before.seconds + monotonic() - began,
        )

    def export(
        self,
        built: Built,
        target: str,
        options: Mapping[str, Scalar],
        shapes: Mapping[str, tuple[int, ...]],
        name: str,
    ) -> tuple[Artifact, Path]:
        """Files of a graph for a target, and the folder they are in; raises TrialError."""
        folder = self._work / "artifacts" / name
        folder.mkdir(parents=True, exist_ok=True)
        answer = self.ask(
            "build:export_in_child",
            {
                "graph": str(built.path),
                "target": target,
                "options": dict(options),
                "shapes": {k: list(v) for k, v in shapes.items()},
                "folder": str(folder),
            },
        )
        return Artifact.model_validate(answer), folder

    def cost(self, built: Built) -> Cost:
        """What a graph costs; raises TrialError."""
        key = str(built.path)
        if key not in self._costs:
            place = self.place(built)
            answer = self.ask("build:cost_in_child", {"graph": key, "store": place["store"]})
            layers = tuple(LayerCost(**layer) for layer in answer["layers"])
            self._costs[key] = Cost(layers, answer["parameters"], answer["nonzero_parameters"])
        return self._costs[key]

    def training(self) -> Training:
        """What training the original without its exact redundancies costs; measured once.

        Raises TrialError or InputError where it cannot be trained.
        """
        if self._training is None:
            place = self.place(self.apply(Recipe((CLEAN,))))
            arguments = {name: place[name] for name in ("graph", "store", "settings")}
            self._training = Training(**self.ask("build:training_in_child", arguments))
        return self._training
