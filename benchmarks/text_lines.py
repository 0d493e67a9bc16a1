"""Photographed-looking lines of real text for the PP-OCR models: rendered sentences on real pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.model_data import photographs, sts_sentences
from benchmarks.torch_modules import package_folder

__all__ = ["grey_line_crops", "text_line_crops", "text_scenes", "turned_line_crops"]

_LINE_HEIGHT = 48
_LINE_WIDTH = 320
_TURNED_WIDTH = 192
_GREY_HEIGHT, _GREY_WIDTH = 64, 256
_SCENE_SIDE = 640


class _Ink(NamedTuple):
    """How one line is printed: its font, and the colours of paper and letters."""

    font: ImageFont.FreeTypeFont
    colour: tuple[int, int, int]
    shade: tuple[int, int, int]


def _font_files() -> list[Path]:
    """The upright text faces that matplotlib ships (DejaVu and STIX), which are the same on every machine."""
    folder = package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf"
    faces = ("Sans", "Sans-Bold", "SansMono", "Serif", "Serif-Bold")
    return [*(folder / f"DejaVu{face}.ttf" for face in faces), folder / "STIXGeneral.ttf"]


def _phrases(data_dir: Path) -> list[str]:
    """Cut the STS sentences into phrases of at most 24 letters, in order."""
    phrases = []
    for sentence in sts_sentences(data_dir, 4000):
        phrase = ""
        for word in sentence.split():
            if phrase and len(phrase) + 1 + len(word) > 24:
                phrases.append(phrase)
                phrase = ""
            phrase = f"{phrase} {word}".strip()
    return [phrase for phrase in dict.fromkeys(phrases) if phrase.isascii() and 6 <= len(phrase) <= 24]


def _pick_ink(rng: np.random.Generator, fonts: list[Path], size_px: int) -> _Ink:
    """Draw a font and two tones far enough apart to be read, either one the darker."""
    dark = tuple(int(v) for v in rng.integers(0, 80, 3))
    light = tuple(int(v) for v in rng.integers(175, 256, 3))
    colour, shade = (dark, light) if rng.random() < 0.7 else (light, dark)
    font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), size_px)
    return _Ink(font, (colour[0], colour[1], colour[2]), (shade[0], shade[1], shade[2]))


def _draw_line(phrase: str, ink: _Ink, photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Print a phrase on a tinted piece of a photograph, then tilt, blur and add sensor noise."""
    left, top, right, bottom = ink.font.getbbox(phrase)
    margin = max(3, round(ink.font.size * 0.2))
    size = (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin)
    x, y = (int(rng.integers(0, side // 2)) for side in photo.size)
    paper = photo.crop((x, y, x + photo.width // 2, y + photo.height // 2)).resize(size)
    paper = Image.blend(paper, Image.new("RGB", size, ink.shade), float(rng.uniform(0.55, 0.9)))
    ImageDraw.Draw(paper).text((margin - left, margin - top), phrase, ink.colour, ink.font)
    tilt = float(rng.uniform(-1.2, 1.2))
    paper = paper.rotate(tilt, Image.Resampling.BILINEAR, fillcolor=ink.shade)
    paper = paper.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, 0.9))))
    noise = rng.normal(0.0, rng.uniform(1.0, 9.0), (*paper.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(paper) + noise, 0, 255).astype(np.uint8))


def _scaled_bgr(picture: Image.Image) -> NDArray[np.float32]:
    """(x / 255 - 0.5) / 0.5 as (3, height, width), blue first: the PP-OCR models are fed by OpenCV."""
    pixels = np.asarray(picture, np.float32)[:, :, ::-1].transpose(2, 0, 1)
    scaled: NDArray[np.float32] = (pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return scaled


def _lines(data_dir: Path, count: int, seed: int) -> Iterator[tuple[Image.Image, str]]:
    """Return `count` pictures of one text line each, of any size, and the texts they show."""
    rng = np.random.default_rng(seed)
    fonts, photos, phrases = _font_files(), photographs(data_dir, 100), _phrases(data_dir)
    for text in [phrases[i] for i in rng.choice(len(phrases), count, replace=False)]:
        ink = _pick_ink(rng, fonts, int(rng.integers(18, 49)))
        yield _draw_line(text, ink, photos[rng.integers(len(photos))], rng), text


def text_line_crops(data_dir: Path, count: int, seed: int = 0) -> tuple[NDArray[np.float32], list[str]]:
    """Return `count` crops of one text line, (count, 3, 48, 320) float32, and the texts they show.

    Each is scaled to 48 pixels in height, and its right is filled with zeros up to 320 (a longer one is
    squeezed), as the recognizer's own preprocessing does.
    """
    crops = np.zeros((count, 3, _LINE_HEIGHT, _LINE_WIDTH), np.float32)
    texts = []
    for crop, (line, text) in zip(crops, _lines(data_dir, count, seed), strict=True):
        width = min(_LINE_WIDTH, -(-line.width * _LINE_HEIGHT // line.height))
        crop[:, :, :width] = _scaled_bgr(line.resize((width, _LINE_HEIGHT), Image.Resampling.BILINEAR))
        texts.append(text)
    return crops, texts


def turned_line_crops(data_dir: Path, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return such crops, 192 pixels wide, every second one turned upside down, and which ones are (1)."""
    crops = text_line_crops(data_dir, count, seed=2)[0][:, :, :, :_TURNED_WIDTH]
    turned = np.arange(count) % 2
    crops[turned == 1] = crops[turned == 1, :, ::-1, ::-1]
    return crops, turned


def grey_line_crops(data_dir: Path, count: int) -> NDArray[np.float32]:
    """Return `count` text lines from 0 (black) to 1: (count, 1, 64, 256) float32, longer ones squeezed."""
    made = []
    for line, _ in _lines(data_dir, count, seed=3):
        grey = line.convert("L").resize((_GREY_WIDTH, _GREY_HEIGHT), Image.Resampling.BILINEAR)
        made.append(np.asarray(grey, np.float32)[None] / np.float32(255))
    return np.stack(made)


def text_scenes(data_dir: Path, count: int, seed: int = 1) -> NDArray[np.float32]:
    """Return `count` photographs with three to eight text lines pasted on: (count, 3, 640, 640) float32."""
    rng = np.random.default_rng(seed)
    fonts, photos, phrases = _font_files(), photographs(data_dir, count), _phrases(data_dir)
    scenes = np.empty((count, 3, _SCENE_SIDE, _SCENE_SIDE), np.float32)
    for scene, photo in zip(scenes, photos, strict=True):
        picture = photo.resize((_SCENE_SIDE, _SCENE_SIDE), Image.Resampling.BILINEAR)
        for row in rng.choice(8, int(rng.integers(3, 9)), replace=False):
            ink = _pick_ink(rng, fonts, int(rng.integers(16, 40)))
            line = _draw_line(phrases[rng.integers(len(phrases))], ink, photo, rng)
            x = int(rng.integers(0, max(1, _SCENE_SIDE - line.width)))
            picture.paste(line, (x, int(row) * _SCENE_SIDE // 8 + 4))
        scene[:] = _scaled_bgr(picture)
    return scenes
