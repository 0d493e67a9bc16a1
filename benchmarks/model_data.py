"""Real pictures and sentences as the arrays that the benchmark models take."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "Arrays",
    "cifar10",
    "folder",
    "imagenet",
    "photographs",
    "sts_pairs",
    "sts_sentences",
    "unit_photographs",
]

Arrays = dict[str, NDArray[Any]]
_Scale = Callable[[NDArray[Any]], NDArray[Any]]

_CIFAR_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_CIFAR_STD = np.array([0.229, 0.224, 0.225], np.float32)


def _read(path: Path, count: int | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).slice(0, count).to_pylist()
    return rows


def _picture(row: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")


def _stack(pictures: Iterable[Image.Image], scale: _Scale) -> NDArray[np.float32]:
    """Scale uint8 pictures (height, width, 3) one by one into one float32 NCHW array."""
    planes = [np.ascontiguousarray(scale(np.asarray(p)).transpose(2, 0, 1), np.float32) for p in pictures]
    return np.stack(planes)


def _labels(rows: list[dict[str, Any]]) -> NDArray[np.int64]:
    return np.array([row["label"] for row in rows], np.int64)


def _centre_crop(picture: Image.Image, side: int) -> Image.Image:
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _letterbox(picture: Image.Image, side: int) -> Image.Image:
    """Pad to a square at the right and the bottom with black, then scale to `side` pixels."""
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest))
    square.paste(picture, (0, 0))
    return square.resize((side, side), Image.Resampling.BILINEAR)


def photographs(data_dir: Path, count: int) -> list[Image.Image]:
    """Return the first `count` pictures of the ImageNet sample, RGB, short side 256 pixels."""
    return [_picture(row) for row in _read(data_dir / "data/imagenet1k-sample/validation.parquet", count)]


def unit_photographs(data_dir: Path, count: int, side: int) -> NDArray[np.float32]:
    """Return `count` ImageNet pictures, letterboxed to `side`, RGB / 255: (count, 3, side, side) float32."""
    pictures = (_letterbox(picture, side) for picture in photographs(data_dir, count))
    return _stack(pictures, lambda x: x.astype(np.float32) / 255)


def imagenet(data_dir: Path) -> Arrays:
    """Return the ImageNet sample: `image` (1000, 3, 224, 224), (x - 127) / 128, and `labels` int64."""
    rows = _read(data_dir / "data/imagenet1k-sample/validation.parquet")
    return {"image": _as_lite0_reads(map(_picture, rows)), "labels": _labels(rows)}


def folder(path: Path) -> NDArray[np.float32]:
    """Return all pictures in a folder, short side 256, as `imagenet` does: (count, 3, 224, 224)."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in {".png", ".jpg", ".jpeg"})
    return _as_lite0_reads(_short_side(Image.open(file).convert("RGB"), 256) for file in files)


def _as_lite0_reads(pictures: Iterable[Image.Image]) -> NDArray[np.float32]:
    crops = (_centre_crop(picture, 224) for picture in pictures)
    return _stack(crops, lambda x: (x.astype(np.float32) - 127) / 128)


def _short_side(picture: Image.Image, side: int) -> Image.Image:
    share = side / min(picture.size)
    return picture.resize((round(picture.width * share), round(picture.height * share)))


def cifar10(data_dir: Path, count: int | None = 4000, split: str = "test") -> Arrays:
    """Return CIFAR-10 pictures: `image` (count, 3, 32, 32), standardized, and `labels` int64.

    split: "test" (10,000) or "train" (50,000); count None: all of it.
    """
    rows = _read(data_dir / f"data/cifar10/{split}.parquet", count)
    pictures = (_picture(row) for row in rows)
    image = _stack(pictures, lambda x: (x.astype(np.float32) / 255 - _CIFAR_MEAN) / _CIFAR_STD)
    return {"image": image, "labels": _labels(rows)}


def sts_sentences(data_dir: Path, count: int) -> list[str]:
    """Return the first `count` distinct sentences of the STS training split, in order."""
    rows = _read(data_dir / "data/sts/train.parquet")
    return list(dict.fromkeys(row[key] for row in rows for key in ("sentence1", "sentence2")))[:count]


def sts_pairs(data_dir: Path, tokenizer: Path, count: int = 1600, length: int = 64) -> Arrays:
    """Return STS test pairs: `input_ids`, `attention_mask` (count, 2, length) int64, `labels` 0-5 float32.

    Sentences are cut or padded to `length` tokens by the tokenizer file of the model's package. The file is
    sorted by where sentences are from, so that its first pairs are all captions of pictures: what is solved
    for them is no good for news. So the first `count` pairs come in a fixed random order.
    """
    from tokenizers import Tokenizer

    coder = Tokenizer.from_file(str(tokenizer))
    coder.enable_truncation(length)
    coder.enable_padding(length=length)
    sorted_rows = _read(data_dir / "data/sts/test.parquet", count)
    rows = [sorted_rows[i] for i in np.random.default_rng(0).permutation(len(sorted_rows))]
    codes = coder.encode_batch([row[key] for row in rows for key in ("sentence1", "sentence2")])
    shape = (len(rows), 2, length)
    return {
        "input_ids": np.array([code.ids for code in codes], np.int64).reshape(shape),
        "attention_mask": np.array([code.attention_mask for code in codes], np.int64).reshape(shape),
        "labels": np.array([row["score"] for row in rows], np.float32),
    }
