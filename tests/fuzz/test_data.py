"""Data files of all kinds of damage: each becomes a store of valid samples, or a refusal in one line."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from hasten.core.tensor import TensorSpec
from hasten.data import ingest
from hasten.process import Worker

from .damage import damaged, places
from .outcome import Hunt

SPECS = (TensorSpec("image", "float32", ("n", 1, 4, 4)), TensorSpec("mask", "int64", ("n", 3)))
COUNT = 12
DAMAGED = 600
REMADE = 500

_HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 1, 4, 4), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (%d, 1, 4, 4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (%d, 1, 4, 4), }",
    "{'descr': [('a', '<f4'), ('b', '<i8')], 'fortran_order': False, 'shape': (%d,), }",
    "{'descr': '<U9', 'fortran_order': False, 'shape': (%d, 1), }",
    "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (%d, 2), }",
    "{'descr': '<f4', 'shape': (%d, 1, 4, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1.5, %d), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, %d), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (%d, 3), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 70 + "%d), }",
    "{'descr': ('<f4', (2, 2)), 'fortran_order': False, 'shape': (%d, 1, 4), }",
    "__import__('os').abort() #%d",
    "[" * 3000 + "%d",
    "\0%d",
)
_ROWS = (0, 1, COUNT, COUNT + 1, -1, 1 << 31, 1 << 62, (1 << 64) + 3)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "image": rng.random((COUNT, 1, 4, 4), dtype=np.float32),
        "mask": rng.integers(0, 2, (COUNT, 3)),
        "labels": rng.integers(0, 10, COUNT),
    }


def npz(compressed: bool) -> bytes:
    made = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(made, **arrays())
    return made.getvalue()


def header(rng: Random) -> bytes:
    """The head of an ``.npy`` member that may claim anything (NEP 1)."""
    text = (rng.choice(_HEADERS) % rng.choice(_ROWS)).encode("latin-1") + b"\n"
    version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    width = 2 if version == b"\x01\x00" else 4
    length = rng.choice((len(text), len(text), len(text), 0, len(text) + 900, (1 << 8 * width) - 1))
    return b"\x93NUMPY" + version + length.to_bytes(width, "little") + text


def remade(rng: Random) -> bytes:
    """An archive whose members are not what ``np.savez`` writes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, array in arrays().items():
            body = io.BytesIO()
            np.save(body, array)
            content = body.getvalue()
            if rng.random() < 0.6:
                content = header(rng) + content[128 : 128 + rng.choice((0, 64, 10_000))]
            stem = rng.choice((name, name, name, name, "", "../" + name, name + "\n", "label"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # two members of one name are a case too
                archive.writestr(stem + rng.choice((".npy", ".npy", ".npy", ".NPY", "/")), content)
    return made.getvalue()


def cases(kind: str, count: int) -> Iterator[tuple[str, bytes]]:
    originals = {"stored": npz(False), "compressed": npz(True)}
    for i in range(count):
        name = f"{kind}-{i}"
        rng = Random(name)
        if kind == "remade":
            yield name, remade(rng)
        else:
            content = originals[kind]
            yield name, damaged(rng, content, places(content, []), originals["compressed"])


def take_in(path: Path, folder: Path) -> None:
    """Copy a file into a store, and read back every sample as a model would be fed."""
    store, _ = ingest(path, SPECS, folder / "store")
    assert len(store) > 0
    for i in range(len(store)):
        sample = store.sample(i)
        assert sample["image"].shape == (1, 4, 4)
        assert sample["image"].dtype == np.float32
        assert np.isfinite(sample["image"]).all()
        assert sample["mask"].shape == (3,)
        assert sample["mask"].dtype == np.int64


def take_in_child(path: str, folder: str) -> None:
    """``take_in`` for the child."""
    take_in(Path(path), Path(folder))


@pytest.mark.parametrize(
    ("kind", "count"), [("stored", DAMAGED), ("compressed", DAMAGED), ("remade", REMADE)]
)
def test_archives_of_arrays(kind: str, count: int, tmp_path: Path) -> None:
    made = Hunt(tmp_path / "got-past", ".npz")
    path = tmp_path / "data.npz"
    for name, content in cases(kind, count):
        path.write_bytes(content)
        made.run(name, content, lambda: take_in(path, tmp_path))
    made.finish()
    assert made.refused > count / 4
    assert made.accepted > 0


def test_a_refused_file_leaves_no_store(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(npz(False)[:-200])
    made = Hunt(tmp_path / "got-past", ".npz")
    assert not made.run("cut", b"", lambda: take_in(tmp_path / "data.npz", tmp_path))
    assert not (tmp_path / "store").exists()


def test_parquet(tmp_path: Path) -> None:
    """In a child, since the parser is native code and this is the only way to outlive its faults."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "data.parquet"
    columns = {name: [row.tolist() for row in array] for name, array in arrays().items()}
    pq.write_table(pa.table(columns), path)
    original = path.read_bytes()
    made = Hunt(tmp_path / "got-past", ".parquet")
    arguments = {"path": str(path), "folder": str(tmp_path)}
    asked = f"{__package__}.test_data:take_in_child"
    with Worker("reading Parquet") as worker:
        for i in range(150):
            content = damaged(Random(f"parquet-{i}"), original, places(original, []), npz(True))
            path.write_bytes(content)
            made.run(f"parquet-{i}", content, lambda: worker.request(asked, arguments, 60.0))
    made.finish()
    assert made.refused > 50


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    original = (folder / "2.png").read_bytes()
    spec = TensorSpec("image", "float32", ("n", 3, 8, 8))
    made = Hunt(tmp_path / "got-past", ".png")
    for i in range(200):
        content = damaged(Random(f"png-{i}"), original, places(original, []), original)
        (folder / "2.png").write_bytes(content)
        made.run(f"png-{i}", content, lambda: ingest(folder, [spec], tmp_path / "store"))
    made.finish()
    assert made.refused > 50
