"""Arrays of an .npz are read row by row, and damage is noticed."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data.models import IDS, X, rows, take
from hasten.core.errors import DataError
from hasten.core.tensor import TensorSpec
from hasten.data import example

GOOD = np.arange(60, dtype=np.float32).reshape(20, 3)


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def test_compressed_or_not(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "data.npz", x=GOOD, labels=np.arange(20))
        store, notes = take(tmp_path / "data.npz", X, tmp_path)
        assert rows(store, "x") == GOOD.tolist()
        assert rows(store, "labels") == list(range(20))
        assert (notes.source, notes.notes) == ("data.npz", ())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_subset_is_of_whole_samples(save, tmp_path: Path) -> None:
    save(tmp_path / "data.npz", x=GOOD, labels=np.arange(20))
    store, notes = take(tmp_path / "data.npz", X, tmp_path, limit=7, seed=3)
    labels = rows(store, "labels")
    assert len(labels) == 7
    assert rows(store, "x") == GOOD[labels].tolist()
    assert "7 of 20 samples were drawn at random (seed 3)" in notes.notes


def test_column_major_text_and_odd_shapes(tmp_path: Path) -> None:
    names = np.array([["a", "bc"], ["d", ""]])
    np.savez(
        tmp_path / "data.npz",
        x=np.asfortranarray(GOOD[:2]),
        names=names,
        empty=np.zeros((2, 0, 3), np.float32),
        count=np.arange(2),
    )
    specs = [
        X,
        TensorSpec("names", "str", ("n", 2)),
        TensorSpec("empty", "float32", ("n", "m", 3)),
        TensorSpec("count", "int64", ("n",)),
    ]
    store, _ = take(tmp_path / "data.npz", specs, tmp_path)
    assert rows(store, "x") == GOOD[:2].tolist()
    assert rows(store, "names") == names.tolist()
    assert store.value("empty", 1).shape == (0, 3)
    assert rows(store, "count") == [0, 1]


def test_memory_is_that_of_a_sample(tmp_path: Path) -> None:
    """200 MB of data come in with 100 MB of address space above what Python and numpy take."""
    path = tmp_path / "data.npz"
    header = {"shape": (2000, 25_000), "fortran_order": False, "descr": "<f4"}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(2000):
            member.write(bytes(100_000))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from hasten.data import ingest; import hasten.data.npz, hasten.data.fit\n"
        "from hasten.core.tensor import TensorSpec\n"
        "now = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (now + (100 << 20),) * 2)\n"
        "spec = TensorSpec('x', 'float32', ('n', 25_000))\n"
        "store, _ = ingest(sys.argv[1], [spec], Path(sys.argv[2]), limit=300)\n"
        "print(len(store))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("300\n", "")


def write(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.array([{"a": 1}] * 3)), "'x' holds Python objects, which are not unpickled"),
        (npy(np.zeros(3, [("a", "f4")])), "'x' is a record array"),
        (npy(np.float32(1)), "'x' is a single number"),
        (npy(GOOD)[:-1], ".*takes 240 bytes, the file has 239; it is damaged"),
        (npy(GOOD).replace(b"(20, 3)", b"(99, 3)"), ".*takes 1188 bytes, the file has 240"),
        (npy(GOOD).replace(b"(20, 3), }  ", b"(-4, -15), }"), ".*it is damaged"),
        (npy(GOOD).replace(b"'<f4'", b"'bad'"), "'x' is not an array"),
        (b"nothing", "'x' is not an array"),
        (b"", "'x' is not an array"),
    ],
)
def test_members_that_are_no_arrays(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.npz: {message}"):
        take(write(tmp_path / "data.npz", x=content), X, tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return open, (str(tmp_path / "mark"), "w")

    path = write(tmp_path / "data.npz", x=npy(np.array([Payload()], dtype=object)))
    with pytest.raises(DataError, match="Python objects"):
        take(path, X, tmp_path)
    assert not (tmp_path / "mark").exists()


def test_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(50, 3)))
    content = path.read_bytes()
    for length in range(0, len(content), 61):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"data\.npz is not an \.npz file, or it is damaged"):
            take(path, X, tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_flipped_bytes_are_noticed(save, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    save(path, x=np.random.default_rng(0).integers(0, 9, (500, 3)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x02
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz is damaged or cut short"):
        take(path, TensorSpec("x", "int64", ("n", 3)), tmp_path)
    assert not (tmp_path / "store").exists()


def test_lengths_and_emptiness(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, ids=np.zeros((3, 2), int), mask=np.zeros((2, 2), int))
    with pytest.raises(DataError, match="ids has 3, mask has 2"):
        take(path, IDS, tmp_path)
    np.savez(path, x=np.zeros((0, 3)))
    with pytest.raises(DataError, match=r"data\.npz: the data are empty"):
        take(path, X, tmp_path)
    np.savez(path)
    with pytest.raises(DataError, match="the data have no 'x'"):
        take(path, X, tmp_path)
    with pytest.raises(DataError, match="preprocessing is for pictures"):
        take(path, X, tmp_path, preprocess={"crop": 3})


def test_the_first_sample_for_tracing(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=GOOD.astype(np.float64), b=np.arange(20), labels=np.arange(20))
    first = example(tmp_path / "data.npz")
    assert {name: (value.shape, value.dtype.name) for name, value in first.items()} == {
        "a": ((1, 3), "float32"),
        "b": ((1,), "int64"),
    }
