"""Folders of pictures and Parquet files: decoded, preprocessed as said, labelled by class."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.models import IDS, IMAGE, X, rows, take
from hasten.core.errors import DataError
from hasten.core.tensor import TensorSpec
from hasten.data import example

RNG = np.random.default_rng(0)
GRAY = TensorSpec("image", "float32", ("n", 1, 8, 8))
LAST = TensorSpec("image", "float32", ("n", 8, 8, 3))
BYTES = TensorSpec("image", "uint8", ("n", 3, "h", "w"))


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def pixels(height: int = 8, width: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def folder(tmp_path: Path, **pictures: np.ndarray) -> Path:
    """Pictures by path, with ``__`` for the separator."""
    for name, array in pictures.items():
        path = tmp_path / "pictures" / (name.replace("__", "/") + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(array))
    return tmp_path / "pictures"


def test_classes_are_numbered_by_name(tmp_path: Path) -> None:
    given = {"dog__1": pixels(), "cat__b": pixels(), "cat__a": pixels()}
    store, notes = take(folder(tmp_path, **given), IMAGE, tmp_path)
    assert rows(store, "labels") == [0, 0, 1]
    for i, name in enumerate(("cat__a", "cat__b", "dog__1")):
        expected = given[name].transpose(2, 0, 1).astype(np.float32) / 255
        assert store.value("image", i) == pytest.approx(expected, abs=1e-6)
    assert notes.notes[0] == "labels 0 to 1 are the subfolders by name: cat, dog"
    assert "resized to cover and centre-cropped to 8x8, layout NCHW, colour rgb" in notes.notes[1]
    assert "divided by 255, no mean and std" in notes.notes[1]


def test_a_class_without_pictures_keeps_its_number(tmp_path: Path) -> None:
    where = folder(tmp_path, ant__1=pixels(), cat__1=pixels())
    (where / "bee").mkdir()
    store, notes = take(where, IMAGE, tmp_path)
    assert rows(store, "labels") == [0, 2]
    assert notes.notes[0] == "labels 0 to 2 are the subfolders by name: ant, bee, cat (no pictures in bee)"


def test_what_other_programs_hide_is_no_picture_and_no_class(tmp_path: Path) -> None:
    where = folder(
        tmp_path, **{".ipynb_checkpoints__1": pixels(), "ant__1": pixels(), "cat__.old__1": pixels()}
    )
    (where / "__MACOSX").mkdir()
    (where / "ant" / "._1.png").write_bytes(b"Mac OS X")
    (where / "cat" / "2.png").write_bytes(png(pixels()))
    store, notes = take(where, IMAGE, tmp_path)
    assert rows(store, "labels") == [0, 1]
    assert notes.notes[0] == "labels 0 to 1 are the subfolders by name: ant, cat"


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    store, notes = take(folder(tmp_path, a=pixels(), b=pixels()), IMAGE, tmp_path)
    assert store.fields == ("image",)
    assert "no labels" in notes.notes[0]


def test_a_whole_number_input_takes_pixels_as_they_are(tmp_path: Path) -> None:
    picture = pixels(5, 7)
    store, notes = take(folder(tmp_path, a=picture), BYTES, tmp_path)
    assert store.value("image", 0).dtype == np.uint8
    assert (store.value("image", 0) == picture.transpose(2, 0, 1)).all()
    assert "pixel values as they are" in notes.notes[1]


def test_every_step_of_the_specification(tmp_path: Path) -> None:
    """Against the steps written out: short side to 16, centre 8x8, (p/255 - mean)/std, BGR, NHWC."""
    picture = pixels(24, 40)
    spec = {
        "resize": 16,
        "crop": 8,
        "interpolation": "bicubic",
        "scale": 1 / 255,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.1, 0.2, 0.3],
        "color": "bgr",
        "layout": "NHWC",
    }
    store, notes = take(folder(tmp_path, a=picture), LAST, tmp_path, preprocess=spec)
    small = np.asarray(Image.fromarray(picture).resize((27, 16), Image.Resampling.BICUBIC), np.float64)
    cropped = small[4:12, 9:17, ::-1] / 255
    expected = (cropped - [0.4, 0.5, 0.6]) / [0.1, 0.2, 0.3]
    # Float32 keeps 2⁻²⁴ of values up to 10.
    assert store.value("image", 0) == pytest.approx(expected, abs=1e-5)
    assert notes.notes == ("pictures without class subfolders: no labels",)


def test_the_specification_lies_in_the_folder(tmp_path: Path) -> None:
    where = folder(tmp_path, a=pixels(16, 16))
    (where / "preprocess.yaml").write_text("resize: [8, 8]\nmean: 0.5\nstd: 0.5\n")
    store, _ = take(where, IMAGE, tmp_path)
    assert store.value("image", 0).min() < -0.2
    with pytest.raises(DataError, match="crop 99x99"):
        take(where, IMAGE, tmp_path, preprocess={"crop": 99})


def test_one_channel(tmp_path: Path) -> None:
    store, notes = take(folder(tmp_path, a=pixels(8, 30)), GRAY, tmp_path)
    assert store.value("image", 0).shape == (1, 8, 8)
    assert "colour gray" in notes.notes[1]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"sharpen": 3}, "preprocess: sharpen: Unexpected keyword"),
        ({"resize": 0}, "preprocess: resize"),
        ({"std": 0}, "preprocess: std"),
        ({"mean": [1.0, 2.0]}, "mean has 2 numbers for 3 channels"),
        ({"layout": "CHW"}, "preprocess: layout"),
        ({"color": "gray"}, r"takes 3 channels \(NCHW\), colour 'gray' gives 1"),
        ({"input": "picture"}, "input 'picture' is not one of image"),
        ([1], "must be a mapping with keys such as resize"),
        ("absent.yaml", "absent.yaml: No such file"),
    ],
)
def test_specifications_that_are_wrong(raw: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        take(folder(tmp_path, a=pixels()), IMAGE, tmp_path, preprocess=raw)


def test_whole_numbers_cannot_be_normalized(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="takes whole numbers"):
        take(folder(tmp_path, a=pixels()), BYTES, tmp_path, preprocess={"mean": 0.5})


@pytest.mark.parametrize("dtype", ["int8", "bool", "str"])
def test_inputs_that_hold_no_pixel_values(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot hold pixel values of 0 to 255"):
        take(folder(tmp_path, a=pixels()), TensorSpec("image", dtype, ("n", 3, 8, 8)), tmp_path)


def test_other_whole_numbers_take_pixels_as_they_are(tmp_path: Path) -> None:
    picture = pixels()
    store, notes = take(folder(tmp_path, a=picture), TensorSpec("image", "int16", ("n", 3, 8, 8)), tmp_path)
    assert (store.value("image", 0) == picture.transpose(2, 0, 1)).all()
    assert "pixel values as they are" in notes.notes[1]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_pixels_of_more_bits_are_not_cut(dtype: type, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.full((8, 8), 30_000, dtype)).save(tmp_path / "pictures" / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff has pixels of 16 bits or more"):
        take(tmp_path / "pictures", GRAY, tmp_path)


def test_models_that_take_no_pictures(tmp_path: Path) -> None:
    where = folder(tmp_path, a=pixels())
    with pytest.raises(DataError, match="does not take pictures: that needs 4 axes"):
        take(where, X, tmp_path)
    with pytest.raises(DataError, match="name the picture's with preprocess: input"):
        take(where, IDS, tmp_path)
    with pytest.raises(DataError, match="the model also takes 'x'"):
        take(where, [IMAGE, X], tmp_path, preprocess={"input": "image"})
    with pytest.raises(DataError, match="does not say what the model takes; give --input"):
        example(where)


def test_folders_and_files_that_hold_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no pictures"):
        take(tmp_path / "empty", IMAGE, tmp_path)
    where = folder(tmp_path, a=pixels(), cat__b=pixels())
    with pytest.raises(DataError, match="both at the top and in subfolders"):
        take(where, IMAGE, tmp_path)
    (where / "a.png").write_bytes(png(pixels())[:60])
    (where / "cat" / "b.png").unlink()
    with pytest.raises(DataError, match=r"a\.png cannot be read as a picture"):
        take(where, IMAGE, tmp_path)


def test_a_picture_that_is_a_bomb(tmp_path: Path) -> None:
    header = bytearray(png(pixels()))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    where = tmp_path / "pictures"
    where.mkdir()
    (where / "a.png").write_bytes(header)
    with pytest.raises(DataError, match=r"a\.png"):
        take(where, IMAGE, tmp_path)


def parquet(path: Path, rows_in_group: int = 4, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows_in_group)
    return path


@pytest.mark.parametrize("struct", [True, False])
def test_pictures_in_parquet(struct: bool, tmp_path: Path) -> None:
    pictures = [pixels() for _ in range(10)]
    encoded = [png(p) for p in pictures]
    column = [{"bytes": e, "path": "x.png"} for e in encoded] if struct else encoded
    path = parquet(tmp_path / "data.parquet", img=column, label=list(range(10)), more=[0] * 10)
    store, notes = take(path, IMAGE, tmp_path, limit=6, seed=1)
    kept = rows(store, "labels")
    assert len(kept) == 6
    for i, label in enumerate(kept):
        expected = pictures[label].transpose(2, 0, 1).astype(np.float32) / 255
        assert store.value("image", i) == pytest.approx(expected, abs=1e-6)
    assert notes.notes[0] == "'img' was taken as the input 'image', the only one"
    assert notes.notes[1] == "not used: 'more'"


def test_numbers_lists_and_tensors_in_parquet(tmp_path: Path) -> None:
    ids = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [1], [2], [3]]
    tensors = np.arange(36, dtype=np.float32).reshape(6, 2, 3)
    path = parquet(
        tmp_path / "data.parquet",
        rows_in_group=2,
        ids=ids,
        nested=pa.array(tensors.tolist(), pa.list_(pa.list_(pa.float32()))),
        fixed=pa.array(tensors.reshape(6, 6).tolist(), pa.list_(pa.float64(), 6)),
        tensor=pa.FixedShapeTensorArray.from_numpy_ndarray(tensors),
        number=pa.array(range(6), pa.int32()),
        flag=pa.array([True, False] * 3),
        kind=pa.array(["a", "b"] * 3).dictionary_encode(),
        labels=pa.array([0.5] * 6),
    )
    specs = [
        TensorSpec("ids", "int64", ("n", "length")),
        TensorSpec("nested", "float32", ("n", 2, 3)),
        TensorSpec("fixed", "float32", ("n", 6)),
        TensorSpec("tensor", "float32", ("n", 2, 3)),
        TensorSpec("number", "int32", ("n",)),
        TensorSpec("flag", "bool", ("n",)),
        TensorSpec("kind", "str", ("n",)),
    ]
    store, notes = take(path, specs, tmp_path)
    assert rows(store, "ids") == ids
    for field in ("nested", "tensor"):
        assert rows(store, field) == tensors.tolist()
    assert rows(store, "fixed") == tensors.reshape(6, 6).tolist()
    assert rows(store, "number") == list(range(6))
    assert rows(store, "flag") == [True, False] * 3
    assert rows(store, "kind") == ["a", "b"] * 3
    assert rows(store, "labels") == [0.5] * 6
    assert notes.notes == ("input 'fixed': cast float64 to float32",)
    assert example(path)["nested"].shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2, 3], None], r"column 'x', row 1 is missing \(null\)"),
        ([[1.0, None, 3]], r"row 0 has missing values \(null\)"),
        ([[1.0, 2, 3], [1.0, 2]], "sample 1 has shape 2"),
        ([[[1.0], [2.0, 3.0]]], "row 0 has lists of different lengths, 1 and 2"),
        ([[[1.0], None]], r"row 0 has missing values \(null\)"),
        (pa.array([1, 2], pa.timestamp("s")), "column 'x' is of type timestamp"),
        ([{"a": 1}], "is of type struct"),
        ([[1.0, float("nan"), 3]], "sample 0 holds nan"),
        (pa.array([], pa.list_(pa.float32())), "the data are empty"),
    ],
)
def test_columns_that_do_not_fit(column: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        take(parquet(tmp_path / "data.parquet", x=column), X, tmp_path)


def test_parquet_that_is_damaged(tmp_path: Path) -> None:
    path = parquet(tmp_path / "data.parquet", x=RNG.normal(size=(100, 3)).tolist())
    content = path.read_bytes()
    for length in (0, 3, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"data\.parquet is not a Parquet file, or it is damaged"):
            take(path, X, tmp_path)
    path.write_bytes(content[:4] + b"\xff" * 600 + content[604:])
    with pytest.raises(DataError, match=r"data\.parquet"):
        take(path, X, tmp_path)


def test_pictures_without_bytes_and_needless_preprocessing(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = parquet(tmp_path / "data.parquet", image=pa.array([{"bytes": None, "path": "a.png"}], kind))
    with pytest.raises(DataError, match="row 0 has no picture, only a path"):
        take(path, IMAGE, tmp_path)
    with pytest.raises(DataError, match="no column the model takes holds any"):
        take(parquet(tmp_path / "x.parquet", x=[[1.0, 2, 3]]), X, tmp_path, preprocess={"crop": 8})


def test_a_file_with_a_date_that_is_none(tmp_path: Path) -> None:
    where = folder(tmp_path, a=pixels())
    (where / "preprocess.yaml").write_text("mean: 2020-13-45\n")
    with pytest.raises(DataError, match=r"preprocess\.yaml cannot be read as YAML: month must be"):
        take(where, IMAGE, tmp_path)
