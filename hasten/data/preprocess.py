"""How does a picture become an input? Resize, crop, colour, scale and normalize, as the model was trained.

The steps in order: colour mode, ``resize``, centre ``crop``, value = (pixel · scale - mean) / std, layout.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from hasten.core.data import Array
from hasten.core.errors import DataError
from hasten.core.tensor import TensorSpec

FILE_NAMES = ("preprocess.yaml", "preprocess.yml", "preprocess.json")
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
_WHOLE = frozenset({"uint8", "uint16", "uint32", "uint64", "int16", "int32", "int64"})
"""Types of inputs that hold pixel values of 0 to 255 as they are."""
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})

Side = Annotated[int, Field(ge=1, le=1 << 16)]


@dataclass(config=ConfigDict(extra="forbid"), frozen=True, kw_only=True)
class Preprocess:
    """The specification, as written in ``preprocess.yaml``.

    input: the model's input; needed when it has several. resize: the short side in pixels (keeping the
    aspect), or [height, width]. crop: from the centre, a side or [height, width]. interpolation: of resizing.
    layout: NCHW or NHWC. scale: multiplies pixel values of 0 to 255. mean, std: subtracted and divided by,
    after scaling, one number or one for each channel. color: rgb, bgr or gray.
    """

    input: str | None = None
    resize: Side | tuple[Side, Side] | None = None
    crop: Side | tuple[Side, Side] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    layout: Literal["NCHW", "NHWC"] | None = None
    scale: Annotated[float, Field(gt=0)] | None = None
    mean: float | tuple[float, ...] = 0.0
    std: Annotated[float, Field(gt=0)] | tuple[Annotated[float, Field(gt=0)], ...] = 1.0
    color: Literal["rgb", "bgr", "gray"] | None = None


def read_preprocess(raw: Any) -> Preprocess:
    """Read a mapping, a YAML or JSON file, or a Preprocess; raises DataError with the path of the key."""
    import yaml

    if isinstance(raw, Preprocess):
        return raw
    where = "preprocess"
    if isinstance(raw, str | Path):
        where = str(raw)
        try:
            raw = yaml.safe_load(Path(raw).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{where}: {error.strerror}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2020-13-45
            raise DataError(f"{where} cannot be read as YAML: {error}") from error
    if raw is None:
        return Preprocess()
    if not isinstance(raw, Mapping):
        raise DataError(f"{where} must be a mapping with keys such as resize, mean and std, not {raw!r}")
    try:
        return TypeAdapter(Preprocess).validate_python(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def picture_input(specs: Sequence[TensorSpec], preprocess: Preprocess) -> TensorSpec:
    """The input that pictures feed: the one named, or the only one; raises DataError."""
    by_name = {spec.name: spec for spec in specs}
    if preprocess.input is not None and preprocess.input not in by_name:
        raise DataError(f"preprocess: input {preprocess.input!r} is not one of {', '.join(by_name)}")
    if preprocess.input is None and len(specs) != 1:
        raise DataError(
            f"the model has the inputs {', '.join(by_name)}; name the picture's with preprocess: input"
        )
    spec = by_name[preprocess.input] if preprocess.input is not None else specs[0]
    if spec.shape is not None and len(spec.shape) != 4:
        raise DataError(
            f"input {spec} does not take pictures: that needs 4 axes (samples, channels, height, width)"
        )
    return spec


@dataclass(frozen=True, kw_only=True)
class PictureReader:
    """A specification completed from the model's input, ready to read pictures."""

    preprocess: Preprocess
    size: tuple[int, int] | None
    dtype: str

    @classmethod
    def of(cls, preprocess: Preprocess, spec: TensorSpec) -> tuple[PictureReader, tuple[str, ...]]:
        """Fill in what is not given from the input's shape and type, and say so; raises DataError."""
        shape = spec.shape or (None, None, None, None)
        layout = preprocess.layout or ("NHWC" if shape[1] not in (1, 3) and shape[3] in (1, 3) else "NCHW")
        channels = shape[1] if layout == "NCHW" else shape[3]
        sides = shape[2:4] if layout == "NCHW" else shape[1:3]
        size = (sides[0], sides[1]) if isinstance(sides[0], int) and isinstance(sides[1], int) else None
        color = preprocess.color or ("gray" if channels == 1 else "rgb")
        if isinstance(channels, int) and channels != _CHANNELS[color]:
            raise DataError(
                f"input {spec} takes {channels} channels ({layout}), "
                f"colour {color!r} gives {_CHANNELS[color]}"
            )
        for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
            if isinstance(values, tuple) and len(values) != _CHANNELS[color]:
                raise DataError(
                    f"preprocess: {name} has {len(values)} numbers for {_CHANNELS[color]} channels"
                )
        whole = spec.dtype in _WHOLE
        if not whole and spec.dtype not in _FLOATS:
            raise DataError(f"input {spec} cannot hold pixel values of 0 to 255: give arrays, as .npz")
        scale = preprocess.scale or (1.0 if whole else 1 / 255)
        if whole and (scale, preprocess.mean, preprocess.std) != (1.0, 0.0, 1.0):
            raise DataError(f"input {spec} takes whole numbers: scale, mean and std cannot be applied")
        crop = preprocess.crop or (size if isinstance(preprocess.resize, int) else None)
        full = replace(preprocess, layout=layout, color=color, scale=scale, crop=crop)
        notes = _assumed(preprocess, full, size)
        return cls(preprocess=full, size=size, dtype=spec.dtype), notes

    def read(self, content: bytes, where: str) -> Array:
        """The input for one picture, without the batch axis; raises DataError naming ``where``."""
        from PIL import Image, UnidentifiedImageError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                    if picture.mode.startswith(("I", "F")):  # PIL would cut all values above 255 to 255
                        raise DataError(
                            f"{where} has pixels of 16 bits or more ({picture.mode}): save it with 8 bits, "
                            "scaled as for training, or give arrays, as .npz"
                        )
                    prepared = self._sized(
                        picture.convert("L" if self.preprocess.color == "gray" else "RGB"), where
                    )
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise DataError(f"{where}: the picture is too large: {error}") from error
        except UnidentifiedImageError as error:
            raise DataError(f"{where} is not a picture, or it is damaged") from error
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise DataError(f"{where} cannot be read as a picture: {error}") from error
        return self._numbers(prepared)

    def _sized(self, picture: Any, where: str) -> Any:
        from PIL import Image

        how = Image.Resampling[self.preprocess.interpolation.upper()]
        resize = self.preprocess.resize
        if resize is None and self.preprocess.crop is None and self.size is not None:
            height, width = self.size
            ratio = max(height / picture.height, width / picture.width)
            covering = max(width, round(picture.width * ratio)), max(height, round(picture.height * ratio))
            return _centre(picture.resize(covering, how), self.size, where)
        if isinstance(resize, int):
            ratio = resize / min(picture.size)
            picture = picture.resize(tuple(max(1, round(side * ratio)) for side in picture.size), how)
        elif resize is not None:
            picture = picture.resize((resize[1], resize[0]), how)
        crop = self.preprocess.crop
        if crop is None:
            return picture
        return _centre(picture, (crop, crop) if isinstance(crop, int) else crop, where)

    def _numbers(self, picture: Any) -> Array:
        pixels = np.asarray(picture)
        if pixels.ndim == 2:
            pixels = pixels[:, :, np.newaxis]
        if self.preprocess.color == "bgr":
            pixels = pixels[:, :, ::-1]
        values: Array = pixels
        if self.dtype in _FLOATS:
            scaled = pixels.astype(np.float32) * np.float32(self.preprocess.scale or 1.0)
            values = (scaled - np.asarray(self.preprocess.mean, np.float32)) / np.asarray(
                self.preprocess.std, np.float32
            )
        if self.dtype != "bfloat16":  # which numpy lacks: such an input takes float32
            values = values.astype(self.dtype)
        return np.ascontiguousarray(values.transpose(2, 0, 1) if self.preprocess.layout == "NCHW" else values)


def _centre(picture: Any, size: tuple[int, int], where: str) -> Any:
    height, width = size
    if picture.height < height or picture.width < width:
        raise DataError(
            f"{where} is {picture.height}x{picture.width} after resizing, "
            f"smaller than the crop {height}x{width}"
        )
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _assumed(given: Preprocess, full: Preprocess, size: tuple[int, int] | None) -> tuple[str, ...]:
    said = []
    if given.resize is None and given.crop is None and size is not None:
        said.append(f"resized to cover and centre-cropped to {size[0]}x{size[1]}")
    elif given.crop is None and full.crop is not None:
        said.append(f"centre-cropped to {full.crop}")
    if given.layout is None:
        said.append(f"layout {full.layout}")
    if given.color is None:
        said.append(f"colour {full.color}")
    if given.scale is None:
        said.append("pixel values as they are" if full.scale == 1.0 else "pixel values divided by 255")
    if (given.mean, given.std) == (0.0, 1.0) and full.scale != 1.0:
        said.append("no mean and std")
    return (f"pictures, assumed: {', '.join(said)} (say otherwise in preprocess.yaml)",) if said else ()
