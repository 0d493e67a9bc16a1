"""A folder of pictures: one subfolder a class, or flat without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hasten.core.data import LABELS
from hasten.core.errors import DataError
from hasten.core.paths import exists
from hasten.data.preprocess import FILE_NAMES, PictureReader, picture_input, read_preprocess
from hasten.data.reader import Reader, Sample, Wanted

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_ARCHIVE_LEFTOVERS = "__MACOSX"
"""What unpacking a zip file made on a Mac leaves beside the classes."""


def open_reader(source: Path, wanted: Wanted) -> Reader:
    """Open a folder; classes are numbered from 0 by the sorted names of the subfolders. Raises DataError.

    A subfolder without pictures is a class too, so that the others keep the numbers they were trained with.
    What is hidden (``.ipynb_checkpoints``, ``._cat.jpg``) belongs to other programs and is left out.
    """
    if wanted.specs is None:
        raise DataError(
            "a folder of pictures does not say what the model takes; give --input NAME=1x3x224x224"
        )
    raw = wanted.preprocess
    if raw is None:
        raw = next((source / name for name in FILE_NAMES if exists(source / name, DataError)), None)
    preprocess = read_preprocess(raw)
    spec = picture_input(wanted.specs, preprocess)
    others = [other.name for other in wanted.specs if other.name != spec.name]
    if others:
        raise DataError(
            f"pictures feed {spec.name!r} only; the model also takes {', '.join(map(repr, others))}"
        )
    try:
        pictures, labels, found_notes = _find(source)
    except OSError as error:
        raise DataError(f"{source.name} cannot be read: {error.strerror}") from error
    reader, notes = PictureReader.of(preprocess, spec)

    def samples(chosen: Sequence[int] | None) -> Iterator[tuple[int, Sample]]:
        for index in range(len(pictures)) if chosen is None else chosen:
            path = pictures[index]
            where = str(path.relative_to(source))
            try:
                content = path.read_bytes()
            except OSError as error:
                raise DataError(f"{where} cannot be read: {error.strerror}") from error
            sample = {spec.name: reader.read(content, where)}
            if labels is not None:
                sample[LABELS] = np.asarray(labels[index], dtype=np.int64)
            yield index, sample

    return Reader(source=source.name, count=len(pictures), samples=samples, notes=(*found_notes, *notes))


def _find(source: Path) -> tuple[list[Path], list[int] | None, tuple[str, ...]]:
    top = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    flat = _pictures(top, source)
    folders = (path for path in top if path.is_dir() and path.name != _ARCHIVE_LEFTOVERS)
    classes = {folder.name: _pictures(folder.rglob("*"), folder) for folder in folders}
    filled = any(classes.values())
    if flat and filled:
        raise DataError(
            f"{source.name} holds pictures both at the top and in subfolders; put every picture in the "
            "subfolder of its class, or all at the top for data without labels"
        )
    if not flat and not filled:
        raise DataError(f"{source.name} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    if flat:
        return flat, None, ("pictures without class subfolders: no labels",)
    names = list(classes)
    empty = [name for name in names if not classes[name]]
    lacking = f" (no pictures in {_some(empty)})" if empty else ""
    note = f"labels 0 to {len(names) - 1} are the subfolders by name: {_some(names)}{lacking}"
    pairs = [(path, label) for label, name in enumerate(names) for path in classes[name]]
    return [path for path, _ in pairs], [label for _, label in pairs], (note,)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _pictures(paths: Iterable[Path], below: Path) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(below).parts)
    )
