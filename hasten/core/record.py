"""What a run leaves behind: the schema of ``hasten.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, ValidationError, field_validator

from hasten.core.budget import Budget, Objective
from hasten.core.errors import RecipeError, RecordError
from hasten.core.layers import Blocks, Kernel, LayerCost, LayerError
from hasten.core.measurement import Comparison, Measurement, Record
from hasten.core.recipe import Recipe

SCHEMA_VERSION = 1

Scalar = str | int | float | bool | None


def _recipe(raw: object) -> Recipe:
    """Read a recipe for pydantic, which takes a ValueError as the refusal of a field."""
    try:
        return Recipe.parse(raw)
    except RecipeError as error:
        raise ValueError(str(error)) from error


def _path(text: str) -> str:
    """Refuse what no file can be called, for pydantic; the operating system would raise ValueError."""
    if "\0" in text:
        raise ValueError("a path cannot hold a NUL character")
    return text


PathField = Annotated[str, AfterValidator(_path)]
RecipeField = Annotated[
    Recipe, PlainValidator(_recipe), PlainSerializer(lambda r: r.to_dict(), return_type=dict[str, Any])
]
BudgetVerdict = Literal["met", "met on the sample, not proven", "missed"]
Status = Literal["ok", "no effect", "failed", "rejected"]


class FileEntry(Record):
    """A file of an artifact; ``path`` is relative to the artifact's folder."""

    path: PathField
    sha256: str
    bytes: int


class Artifact(Record):
    """Files that one runtime opens, with the options it opens them with.

    target: the name in ``hasten.targets``; entry: the file to open; files: everything the runtime needs.
    """

    target: str
    options: dict[str, Scalar] = Field(default_factory=dict)
    entry: PathField
    files: tuple[FileEntry, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of everything the runtime needs."""
        return sum(f.bytes for f in self.files)


class Site(Record):
    """A place in the graph that a method changed."""

    name: str
    op_type: str
    what: str


class Skip(Record):
    """A place in the graph that a method looked at and left, and why."""

    name: str
    op_type: str
    reason: str


class Flips(Record):
    """Samples whose score changed: for the worse (lost), as from right to wrong, or the better (gained)."""

    lost: int
    gained: int


class Quality(Record):
    """Quality of one subject on one role of the data, compared with the original's on the same samples.

    value, reference: the metric of the subject and of the original, in the metric's own unit.
    drop: reference minus value for metrics where more is better, value minus reference otherwise.
    ci95: interval of ``drop`` from the bootstrap over samples.
    allowed: the largest drop within budget, same unit; budget: whether it was kept.
    proof_n: about how many samples would prove a point estimate that is within budget, or None.
    details: further figures of the same predictions (for agreement: per decision, worst output …).
    """

    metric: str
    value: float
    reference: float
    drop: float
    ci95: tuple[float, float]
    n: int
    flips: Flips | None = None
    allowed: float
    budget: BudgetVerdict
    proof_n: int | None = None
    details: dict[str, float] = Field(default_factory=dict)


class Scorecard(Record):
    """Everything measured of one artifact, side by side with the reference. None: not measured.

    reference_ms: the reference's latency in the rounds ``latency_ms`` and ``speedup`` come from; at another
    hour, on a machine with other work, it may differ from what the baseline shows.
    throughput_per_s, throughput_gain: samples a second with as many requests under way as keep the runtime
    busy, and its ratio to the reference's in the same rounds; measured where throughput is the objective.
    """

    quality: Quality | None = None
    latency_ms: Measurement | None = None
    reference_ms: Measurement | None = None
    speedup: Comparison | None = None
    throughput_per_s: Measurement | None = None
    throughput_gain: Comparison | None = None
    load_ms: float | None = None
    size_bytes: int | None = None
    size_zstd_bytes: int | None = None
    peak_memory_bytes: int | None = None

    def gain(self, objective: Objective) -> Comparison | None:
        """How many times faster than the reference at what is to be made fast: one inference, or many."""
        return self.throughput_gain if objective == "throughput" else self.speedup


class Trial(Scorecard):
    """One recipe on one target with one set of options, and what came of it.

    status: ``ok`` (measured, within budget or not proven otherwise), ``no effect`` (the recipe changed
    nothing), ``failed`` (could not be applied, exported or run), ``rejected`` (ran, but lost too much).
    """

    id: str
    recipe: RecipeField
    target: str
    runtime: str
    options: dict[str, Scalar] = Field(default_factory=dict)
    status: Status
    reason: str | None = None
    artifact: Artifact | None = None
    macs: int | None = None
    parameters: int | None = None
    nonzero_parameters: int | None = None
    sites: tuple[Site, ...] = ()
    skipped: tuple[Skip, ...] = ()
    notes: tuple[str, ...] = ()
    selectable: bool = True
    seconds: float = 0.0


class Best(Record):
    """The trial that was chosen, and the claim made for it on the holdout.

    kernels: what the runtime executes for it.
    errors: how far its layers in fewer bits are from what they were before.
    flipped: numbers of the held-out samples, in the order of the data set, whose score changed: those lost,
    then those gained, at most 100. Of data with more than 20,000 samples, of which so many are drawn at
    random (``data.notes``), they number those drawn, in the order of the data set.
    """

    trial: str
    holdout: Scorecard
    layers: tuple[LayerCost, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    errors: tuple[LayerError, ...] = ()
    flipped: tuple[int, ...] = ()


class Finalist(Record):
    """A trial that was good enough to be compared with the other best ones at the end.

    speedup, throughput_gain: over the original, with all finalists in the same rounds; null where size is
    the objective or there was no other finalist. outcome: what the holdout said; ``not asked`` where one
    before it was confirmed. reason: why it was not.
    """

    trial: str
    speedup: Comparison | None = None
    throughput_gain: Comparison | None = None
    outcome: Literal["confirmed", "refused", "failed", "not asked"] = "not asked"
    reason: str | None = None


class Considered(Record):
    """A candidate the search looked at before trying it: tried, or why not."""

    name: str
    tried: bool
    reason: str


class MachineInfo(Record):
    """The conditions a claim holds under."""

    cpu: str
    cores: int
    flags: tuple[str, ...]
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]


class ModelInfo(Record):
    """The model as it came in."""

    sha256: str
    source: str
    format: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    parameters: int
    macs: int | None
    size_bytes: int
    layers: tuple[LayerCost, ...] = ()
    notes: tuple[str, ...] = ()


class DataInfo(Record):
    """The data as they came in; splits: role to number of samples.

    train: the data that calibration has to itself, where ``--train`` gave them; otherwise all roles are
    parts of the same data.
    """

    sha256: str
    source: str
    samples: int
    labelled: bool
    splits: dict[str, int]
    notes: tuple[str, ...] = ()
    train: DataInfo | None = None


class BudgetInfo(Record):
    """The constraints and conditions of a run.

    metric: what judged. metric_asked: what ``optimize`` was told; empty: it chose itself; None: a function of
    the user's, which is not in the record. inputs: what a torch module was said to take.
    """

    max_drop: float
    points: bool
    time_s: float
    objective: Objective
    target: str
    metric: str
    metric_asked: str | None = None
    batch: int
    threads: int
    seed: int
    shapes: dict[str, str] = Field(default_factory=dict)
    inputs: tuple[str, ...] = ()

    def to_budget(self) -> Budget:
        """The constraints, as the search takes them."""
        return Budget(**self.model_dump(include={"max_drop", "points", "time_s", "objective"}))


class SourceRuntime(Record):
    """What the user runs today: the framework the model came from, timed in the same rounds.

    speedup: as of any trial, the baseline over this: below 1 the framework is slower than the baseline.
    """

    name: str
    latency_ms: Measurement
    speedup: Comparison


class RunRecord(Record):
    """A whole run; the report is a function of this record alone.

    blocks: in how many channels at a time widths were cut, where it was measured.
    finalists: in the order in which the holdout was to confirm them. verdict: ``faster``, ``smaller`` or
    ``kept`` (nothing qualified, the original is what was saved).
    headline: the verdict in a sentence.
    """

    schema_version: int = SCHEMA_VERSION
    hasten_version: str
    created: str
    seconds: float
    machine: MachineInfo
    model: ModelInfo
    data: DataInfo
    budget: BudgetInfo
    baseline: Trial
    source: SourceRuntime | None = None
    trials: tuple[Trial, ...] = ()
    considered: tuple[Considered, ...] = ()
    blocks: tuple[Blocks, ...] = ()
    finalists: tuple[Finalist, ...] = ()
    best: Best | None = None
    verdict: Literal["faster", "smaller", "kept"]
    headline: str
    reasons: tuple[str, ...] = ()
    files: tuple[FileEntry, ...] = ()

    @field_validator("schema_version")
    @classmethod
    def _readable(cls, version: int) -> int:
        if version != SCHEMA_VERSION:
            raise ValueError(f"it is of version {version}, and this hasten reads version {SCHEMA_VERSION}")
        return version

    def to_json(self) -> str:
        """The text of ``hasten.json``."""
        return self.model_dump_json(indent=1)

    @classmethod
    def parse(cls, text: str | bytes, where: str = "record") -> RunRecord:
        """Validate the text of a ``hasten.json``; raises RecordError that names the key."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "the file"
            found = f"{where}: {key}: {first['msg']}"
            raise RecordError(f"{found}; write it again with `hasten optimize`") from error

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord:
        """Read ``hasten.json`` of a folder that ``hasten optimize`` wrote; raises RecordError."""
        path = Path(folder) / "hasten.json"
        try:
            text = path.read_bytes()
        except OSError as error:
            raise RecordError(
                f"{path}: {error.strerror}; give the folder that `hasten optimize -o` wrote"
            ) from error
        return cls.parse(text, str(path))

    def trial(self, name: str) -> Trial:
        """The trial of that id; raises RecordError."""
        for trial in (self.baseline, *self.trials):
            if trial.id == name:
                return trial
        raise RecordError(f"the record names trial {name!r} but does not hold it")
