"""The public functions of ``import hasten``: the commands, for a program instead of a person."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hasten import data as data_room
from hasten import loaders, methods, report, run, targets, train
from hasten.core.budget import Budget
from hasten.core.data import Array, Dataset, Roles
from hasten.core.errors import InputError, RecordError, TrialError
from hasten.core.recipe import Recipe
from hasten.core.record import RunRecord, Scorecard
from hasten.core.tensor import TensorSpec
from hasten.deliver import publish
from hasten.graph import Graph
from hasten.graph.packed import is_packed, unpack
from hasten.loaders.onnx import naming
from hasten.measuring import Conditions
from hasten.methods import Change, Context
from hasten.search.occupied import occupied
from hasten.search.request import Event, Listener, Request, check_seed, cores, silent
from hasten.search.side_by_side import measure_files
from hasten.train.history import Fitted
from hasten.train.history import Listener as TrainingListener
from hasten.train.settings import Settings

Shapes = Mapping[str, tuple[int, ...]]


class Result:
    """What ``optimize`` found: ``record`` is the evidence, ``save`` writes the deployable folder."""

    def __init__(
        self, record: RunRecord, folder: Path, keep: tempfile.TemporaryDirectory[str] | None
    ) -> None:
        self.record = record
        self.folder = folder
        self._keep = keep

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write model, ``hasten.json`` and ``report.html``, whole or not at all.

        Raises OutputError when the folder exists (without ``force``) or cannot be written.
        """
        publish(self.folder, Path(folder), force)
        return Path(folder)

    def open(self) -> Model:
        """The saved version, opened in its runtime."""
        return load(self.folder)

    def __str__(self) -> str:
        return "\n".join(report.summary(self.record))


class Model:
    """A saved model opened in its runtime with its options: numpy in, numpy out, names as in the model."""

    def __init__(self, record: RunRecord, runner: targets.Runner) -> None:
        self.record = record
        self._runner = runner

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What must be fed."""
        return self._runner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What comes out."""
        return self._runner.outputs

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference; raises InputError when an input is missing or unknown, TrialError when it fails."""
        names = {spec.name for spec in self.inputs}
        if set(feeds) != names:
            raise InputError(
                f"feed exactly the inputs {', '.join(sorted(names))}, not {', '.join(sorted(feeds))}"
            )
        return self._runner.run(feeds)


def optimize(  # noqa: PLR0913 - one parameter an option of the command line
    model: Any,
    data: Any,
    *,
    train: Any = None,
    metric: Any = None,
    budget: Budget | None = None,
    target: str = "cpu",
    recipe: Recipe | None = None,
    inputs: Sequence[str] = (),
    shapes: Shapes | None = None,
    batch: int = 1,
    threads: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    listener: Listener = silent,
) -> Result:
    """The fastest version of ``model`` that keeps its quality on ``data``, with the evidence.

    model: a path, ``package.module:function``, ``torch.nn.Module``, Keras model, ``onnx.ModelProto`` or
    Graph. data: a path, ``package.module:function``, a dictionary of arrays, or an iterable of batches.
    train: data of the same kinds to calibrate and learn from; all of ``data`` is then left to compare on.
    metric: a name, a function of outputs and labels, or None to choose one. folder: where the run keeps its
    work, empty or new unless ``resume``, which it is needed for; a temporary folder otherwise. Raises
    InputError for anything that cannot be used, OutputError for a folder with something else in it, or that
    another run is using.
    """
    temporary = None
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="hasten-")
        folder = temporary.name
    request = Request(
        model=model,
        data=data,
        folder=Path(folder),
        train=train,
        metric=metric,
        budget=budget or Budget(),
        target=target,
        recipe=recipe,
        inputs=tuple(inputs),
        shapes=dict(shapes or {}),
        batch=batch,
        threads=threads,
        seed=seed,
        resume=resume,
    )
    with occupied(request.folder):
        record, result = run.optimize(request, listener)
    return Result(record, result, temporary)


def load(folder: str | Path) -> Model:
    """Open what ``optimize`` saved, in its runtime with its options.

    Raises RecordError when the folder holds no valid record or its files are not the recorded ones,
    Unavailable when the runtime is not installed.
    """
    folder = Path(folder)
    record = RunRecord.read(folder)
    trial = record.trial(record.best.trial) if record.best else record.baseline
    if trial.artifact is None:
        raise RecordError(f"{folder}: the record names no files for {trial.id}")
    missing = [f.path for f in trial.artifact.files if not (folder / f.path).is_file()]
    if missing:
        raise RecordError(f"{folder}: {missing[0]} is missing; write the folder again with `hasten optimize`")
    target = targets.find(trial.target)
    try:
        opened = target.open(trial.artifact, folder, targets.options(trial.target, trial.options))
    except TrialError as error:
        raise RecordError(f"{folder}: {error}") from error
    return Model(record, opened)


def read(model: Any, *, inputs: Sequence[str] = (), shapes: Shapes | None = None) -> Graph:
    """Any model as a Graph; raises ModelError."""
    return loaders.read(model, inputs=tuple(inputs), shapes=dict(shapes or {})).graph


def apply(
    graph: Graph,
    recipe: Recipe,
    data: Any = None,
    *,
    seed: int = 0,
    threads: int | None = None,
    batch: int = 1,
    listener: Listener = silent,
) -> Change:
    """Apply one recipe without searching or measuring; all the data calibrate.

    listener: told what was assumed of the data.
    Raises RecipeError for a malformed recipe, MethodError when a step cannot be applied, DataError.
    """
    methods.validate(recipe)
    check_seed(seed)
    with tempfile.TemporaryDirectory(prefix="hasten-") as folder:
        calibration = None
        if data is not None:
            store, notes = data_room.ingest(
                data, graph.inputs, Path(folder) / "store", seed=seed, limit=sys.maxsize
            )
            for note in notes.notes:
                listener(Event(f"{notes.source}: {note}"))
            calibration = Roles.everything(store).calibration
        context = Context(
            calibration=calibration,
            work=Path(folder),
            seed=seed,
            threads=cores(threads),
            batch=batch,
        )
        return methods.apply(recipe, graph, context)


def fit(  # noqa: PLR0913 - what is trained, on what and how; each is one decision of the caller's
    model: Any,
    data: Any,
    *,
    settings: Settings | None = None,
    teacher: Any = None,
    loss: Any = None,
    folder: str | Path | None = None,
    resume: bool = False,
    listener: TrainingListener | None = None,
    inputs: Sequence[str] = (),
    shapes: Shapes | None = None,
) -> Fitted:
    """Train a model on labels, on a teacher, or both; ``hasten.train.fit`` says how.

    model, teacher: a Graph, a ``torch.nn.Module`` (trained in place), or anything ``read`` takes. data: as
    for ``optimize``, or a ``Dataset``. folder: where checkpoints are kept; with ``resume`` it goes on.
    listener: called with an ``Event`` now and then; None shows a bar on a terminal. Start the program with
    ``torchrun`` to train on several processes.
    Raises InputError for what cannot be used, TrainingError when training fails, Unavailable without PyTorch
    or accelerate.
    """
    start = train.fit
    ready = _to_train(model, inputs, shapes)
    taught = None if teacher is None else _to_train(teacher, inputs, shapes)
    with ExitStack() as stack:
        tell = listener or stack.enter_context(_bar())
        if not isinstance(data, Dataset):
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hasten-")))
            specs = ready.inputs if isinstance(ready, Graph) else data_room.specs_of(data)
            store, _ = data_room.ingest(data, specs, work / "store", limit=sys.maxsize)
            data = Roles.everything(store).calibration
        return start(
            ready,
            data,
            settings=settings,
            teacher=taught,
            loss=loss,
            folder=folder,
            resume=resume,
            listener=tell,
        )


def _to_train(model: Any, inputs: Sequence[str], shapes: Shapes | None) -> Any:
    """A module as it is, anything else as a graph."""
    is_module = hasattr(model, "named_parameters") and callable(model)
    return model if is_module or isinstance(model, Graph) else read(model, inputs=inputs, shapes=shapes)


def _bar() -> Any:
    from hasten.train.progress import Bar

    return Bar()


def measure(  # noqa: PLR0913 - one parameter an option of the command line
    models: Sequence[str | Path],
    data: Any = None,
    *,
    metric: Any = None,
    budget: Budget | None = None,
    batch: int = 1,
    threads: int | None = None,
    seed: int = 0,
    listener: Listener = silent,
) -> list[Scorecard | TrialError]:
    """Measure files side by side; the first is the reference.

    models: ``.onnx``, ``.onnx.zst`` (unpacked first), OpenVINO ``.xml`` or ``.pt2`` files, or folders that
    ``optimize`` saved. Without data the inputs are random and quality is not judged. A model that fails
    yields its TrialError in its place. listener: told what was assumed of the data.
    Raises InputError when the reference cannot be opened or the data do not fit.
    """
    check_seed(seed)
    conditions = Conditions(batch=batch, threads=cores(threads), seed=seed)
    with tempfile.TemporaryDirectory(prefix="hasten-") as folder:
        paths = [_unpacked(Path(m), Path(folder) / str(i)) for i, m in enumerate(models)]
        return measure_files(paths, data, metric, conditions, budget or Budget(), listener)


def _unpacked(path: Path, folder: Path) -> Path:
    """A compressed model as the ``.onnx`` file that runtimes open, in ``folder``; other paths as they are."""
    if not is_packed(path):
        return path
    with naming(str(path)):
        message = unpack(path)
    folder.mkdir()
    file = folder / path.stem
    file.write_bytes(message)
    return file
