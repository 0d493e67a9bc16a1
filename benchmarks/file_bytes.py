"""Real files of many kinds as the byte features that Magika's model takes."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import sysconfig
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["file_bytes", "magika_features"]

# `standard_v3_3/config.min.json` of the magika package states these.
_EDGE_BYTES = 1024
_BLOCK_BYTES = 4096
_PADDING = 256
_MIN_BYTES = 8


def magika_features(path: Path) -> NDArray[np.int32] | None:
    """The first and last 1024 bytes of a file, white space stripped at the outer ends: (2048,) int32.

    Short files are padded with 256, at the end of the first half and at the start of the second. None when
    fewer than 8 bytes are left, which Magika decides without its model. Source: magika 1.0, "features
    extraction v2".
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        block = min(_BLOCK_BYTES, size)
        head = file.read(block).lstrip()[:_EDGE_BYTES]
        file.seek(size - block)
        tail = file.read(block).rstrip()[-_EDGE_BYTES:]
    if len(head) < _MIN_BYTES:
        return None
    features = np.full(2 * _EDGE_BYTES, _PADDING, np.int32)
    features[: len(head)] = np.frombuffer(head, np.uint8)
    features[2 * _EDGE_BYTES - len(tail) :] = np.frombuffer(tail, np.uint8)
    return features


def _is_regular(path: Path) -> bool:
    return not path.is_symlink() and stat.S_ISREG(path.stat().st_mode) and os.access(path, os.R_OK)


def _files_by_suffix(roots: list[Path]) -> list[list[Path]]:
    """Group the files under `roots` by suffix; inside a group a hash of the path decides the order."""
    groups: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in names:
                path = Path(folder, name)
                key = hashlib.sha256(str(path.relative_to(root)).encode()).hexdigest()
                groups[path.suffix.lower()].append((key, path))
    return [[path for _, path in sorted(groups[suffix])] for suffix in sorted(groups)]


def file_bytes(count: int) -> NDArray[np.int32]:
    """Features of `count` files of Python's library, its installed packages and /usr/share: (count, 2048).

    One file a suffix in turn, so that no kind dominates; files with equal features are taken once. The
    choice is a function of the files that are there. Raises ValueError when too few are found.
    """
    paths = sysconfig.get_paths()
    folders = (paths["stdlib"], paths["purelib"], "/usr/share")
    roots = [Path(folder) for folder in folders if Path(folder).is_dir()]
    rounds = itertools.zip_longest(*_files_by_suffix(roots))
    rows: dict[bytes, NDArray[np.int32]] = {}
    for path in itertools.chain.from_iterable(rounds):
        if path is None or not _is_regular(path):
            continue
        features = magika_features(path)
        if features is not None:
            rows.setdefault(features.tobytes(), features)
        if len(rows) == count:
            return np.stack(list(rows.values()))
    raise ValueError(f"found {len(rows)} files with content, need {count}")
