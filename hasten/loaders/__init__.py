"""How does a model get in? One file a framework; every model becomes a checked graph."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from hasten.core.data import Array
from hasten.core.errors import InputError, ModelError
from hasten.core.named import is_name
from hasten.core.paths import exists
from hasten.loaders.loaded import Loaded, Request

TABLE = {
    ".onnx": "hasten.loaders.onnx",
    ".onnx.zst": "hasten.loaders.packed",
    "onnx.onnx_ml_pb2.ModelProto": "hasten.loaders.onnx",
    ".pt2": "hasten.loaders.torch",
    ".keras": "hasten.loaders.keras",
    "saved_model.pb": "hasten.loaders.tensorflow",
    "package.module:function": "hasten.loaders.function",
    "torch.nn.modules.module.Module": "hasten.loaders.torch",
    "torch.export.exported_program.ExportedProgram": "hasten.loaders.torch",
    "keras.src.models.model.Model": "hasten.loaders.keras",
}
"""Suffix of a file, file that a folder holds, or class of an object, to module. Other packages add theirs
through the entry point group ``hasten.loaders``, with the suffix as the name of the entry."""

_H5 = (
    "Keras' old HDF5 format is not read, it can hold code; load it where it was made, with "
    "keras.models.load_model, and save it again with model.save('model.keras')"
)
_GRAPH_DEF = (
    "a graph of TensorFlow by itself lacks its inputs, outputs and weights; give the SavedModel folder "
    "that it is from (model.export('folder') or tf.saved_model.save)"
)
_KERAS_2 = (
    "this is a model of Keras 2; write it with tf.saved_model.save(model, 'folder') and give the folder"
)
_TENSORFLOW = "TensorFlow comes in as files: tf.saved_model.save(object, 'folder'), and give the folder"
_PICKLE = (
    "it is a pickle, which can run any code when opened, so hasten does not; save the program with "
    "torch.export.save (.pt2), or give package.module:function that returns the module"
)
REFUSED = {
    ".h5": _H5,
    ".hdf5": _H5,
    ".pb": _GRAPH_DEF,
    ".tflite": "TensorFlow Lite is not opened yet; give the Keras model or SavedModel that it was made from",
    ".xml": "OpenVINO files cannot be optimized, only measured (hasten measure); give the .onnx file instead",
    ".pt": _PICKLE,
    ".pth": _PICKLE,
    ".ckpt": _PICKLE,
    ".pkl": _PICKLE,
    ".bin": _PICKLE,
    ".safetensors": "it holds weights, no network; give package.module:function that returns the module",
    ".zst": "the name must say what is compressed; call it NAME.onnx.zst if it is an ONNX model",
    ".ort": "it is ONNX Runtime's internal format; give the .onnx file it was made from",
}
"""Suffixes that are known and not opened, and the way out."""

_TYPED = frozenset({"onnx", "tensorflow"})
"""Formats whose models name and type their inputs."""

_FOREIGN = {
    "tf_keras": _KERAS_2,
    "tensorflow": _TENSORFLOW,
    "keras": "this is a part of a model; give a keras.Model, for instance keras.Sequential([...])",
}
"""Packages whose other objects are no models, and the way out."""


class Loader(Protocol):
    """The shape of a loader's module."""

    def load(self, request: Request) -> Loaded:
        """The model as a checked graph; raises InputError."""


def read(
    source: Any,
    *,
    inputs: Sequence[str] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    samples: Sequence[Mapping[str, Array]] | None = None,
    work: Path | None = None,
) -> Loaded:
    """Any model as a checked graph.

    source: a path, ``package.module:function``, a ``torch.nn.Module``, an ``onnx.ModelProto`` or a Graph.
    inputs: for modules, what they take: ``NAME=1x3x224x224`` or ``NAME=1x64:int64``. shapes: inputs to fix,
    as in ``fix_shapes``. samples: real inputs by name, batch axis included; the graph must answer them as
    its source does. work: an existing folder for files that outlive the call (``Loaded.eager``).
    Raises InputError for what cannot be used, ModelError for a malformed model, Unavailable.
    """
    from hasten.graph import Graph

    if isinstance(source, Graph):
        loaded = Loaded(graph=source, source="graph", format="onnx")
        _reopen(loaded)
    else:
        name, loader = _find(source)
        request = Request(source=source, name=name, inputs=inputs, samples=samples, work=work)
        loaded = loader.load(request)
    if inputs and loaded.format in _TYPED:
        raise InputError(f"{loaded.source}: such a model says what it takes; leave --input out")
    if shapes:
        from hasten.loaders.shapes import fix_shapes

        loaded = replace(loaded, graph=fix_shapes(loaded.graph, shapes))
        _reopen(loaded)
    if samples and loaded.format == "onnx":
        check(loaded, samples)
    return loaded


def check(loaded: Loaded, samples: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """The largest difference of each output from the source's, over the output's largest magnitude.

    samples: real inputs by name, batch axis included. An ONNX file answers in ONNX Runtime, a model of
    another framework there; where the source is gone the graph is only run. Raises InputError when samples
    lack an input, ModelError when it cannot be run or answers differently.
    """
    from hasten.loaders.agree import compare, read_runs, write_runs
    from hasten.loaders.onnx import examine, examine_graph, naming
    from hasten.process import Worker

    names = [spec.name for spec in loaded.graph.inputs]
    for sample in samples:
        if not set(names) <= set(sample):
            raise InputError(
                f"{loaded.source}: the model's inputs are {', '.join(names)}, "
                f"the data have {', '.join(sample)}"
            )
    with tempfile.TemporaryDirectory() as folder, naming(loaded.source):
        feeds, theirs, ours = (Path(folder) / f"{name}.npz" for name in ("feeds", "theirs", "ours"))
        write_runs(feeds, [{name: sample[name] for name in names} for sample in samples])
        with Worker(f"checking {loaded.source}") as worker:
            examine_graph(worker, loaded.graph, feeds, ours)
            if loaded.eager is not None:
                from hasten.loaders.torch import answers_of

                answers_of(loaded.eager, feeds, theirs)
            elif loaded.reference is not None:
                loaded.reference(feeds, theirs)
            elif loaded.original is not None:
                examine(worker, loaded.original, feeds, theirs)
            else:
                return {}
        return compare(read_runs(theirs), read_runs(ours), loaded.source)


def _reopen(loaded: Loaded) -> None:
    """Raise ModelError unless ONNX Runtime opens the graph as it now is."""
    from hasten.loaders.onnx import adopt_outputs, examine_graph, naming
    from hasten.process import Worker

    with Worker(f"opening {loaded.source}") as worker, naming(loaded.source):
        adopt_outputs(loaded.graph, examine_graph(worker, loaded.graph))


def _find(source: Any) -> tuple[str, Loader]:
    """What to call a source in messages, and its loader; raises InputError."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not exists(path, ModelError) and isinstance(source, str) and is_name(source):
            return source, _loader("package.module:function")
        return path.name, _loader_of_file(path)
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(source).__mro__]
    for key in kinds:
        if key in TABLE:
            return type(source).__name__, _loader(key)
    for package in (kind.partition(".")[0] for kind in kinds):
        if package in _FOREIGN:
            raise InputError(f"{type(source).__name__}: {_FOREIGN[package]}")
    raise InputError(
        f"a {type(source).__module__}.{type(source).__qualname__} is not a model: give a path, "
        "package.module:function, a torch.nn.Module, a keras.Model, an onnx.ModelProto or a Graph"
    )


def _loader_of_file(path: Path) -> Loader:
    suffix = path.suffix.lower()
    if path.name.lower().endswith(".onnx.zst"):
        suffix = ".onnx.zst"
    entries = {entry.name: entry for entry in entry_points(group="hasten.loaders")}
    if suffix in TABLE:
        return _loader(suffix)
    if suffix in entries:
        return cast("Loader", entries[suffix].load())
    if suffix in REFUSED:
        raise InputError(f"{path.name}: {REFUSED[suffix]}")
    if exists(path / "saved_model.pb", ModelError):
        return _loader("saved_model.pb")
    if path.is_dir():
        raise InputError(f"{path.name} is a folder; give the .onnx file in it")
    known = ", ".join(key for key in (*TABLE, *entries) if key.startswith("."))
    if not path.exists():
        raise InputError(
            f"{path}: there is no such file, and it is not of the form package.module:function; "
            f"a model is one of {known}"
        )
    raise InputError(
        f"{path.name}: hasten does not read {suffix or 'files without a suffix'}; give one of {known}"
    )


def _loader(key: str) -> Loader:
    return cast("Loader", import_module(TABLE[key]))
