"""Files of an artifact: hashed when written, and a user's own model file taken as an artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from hasten.core.errors import InputError, ModelError
from hasten.core.record import Artifact, FileEntry, Scalar

_CHUNK_BYTES = 1 << 20


def entries(folder: Path, names: Iterable[str]) -> tuple[FileEntry, ...]:
    """Hash and size of files of ``folder``, in the order given."""
    return tuple(_entry(folder, name) for name in names)


def _entry(folder: Path, name: str) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    with (folder / name).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(path=name, sha256=digest.hexdigest(), bytes=size)


def artifact_of(path: Path, options: Mapping[str, Scalar] | None = None) -> tuple[Artifact, Path]:
    """A model file as it is, taken as an artifact: ``.onnx``, OpenVINO ``.xml`` or ``.pt2``.

    Returns the artifact and the folder its files lie in; nothing is copied. ``options`` are run-time
    options of its target. Raises InputError for another kind of file, ModelError when a file is missing.
    """
    targets = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}
    if path.suffix not in targets:
        raise InputError(
            f"{path}: no runtime opens {path.suffix or 'such'} files; give one of {', '.join(targets)}"
        )
    names = [path.name]
    if path.suffix == ".xml":
        names.append(path.with_suffix(".bin").name)
    elif path.suffix == ".onnx":
        names += _external_files(path)
    try:
        files = entries(path.parent, names)
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}; {path.name} needs it") from error
    artifact = Artifact(
        target=targets[path.suffix], options=dict(options or {}), entry=path.name, files=files
    )
    return artifact, path.parent


def _external_files(path: Path) -> list[str]:
    """The files beside an ONNX model that hold its weights; raises ModelError for one outside its folder."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model: {error}") from error
    found: dict[str, None] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if not location or not (path.parent / location).resolve().is_relative_to(path.parent.resolve()):
            raise ModelError(f"{path}: weights {tensor.name!r} lie outside the model's folder ({location!r})")
        found[location] = None
    return list(found)
