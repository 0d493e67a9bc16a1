"""Compressed model files: one ONNX message, its weights inside, as a zstd frame (``.onnx.zst``).

Codes of few bits are not equally frequent, and entropy coding makes use of it: the last step of Deep
Compression, with zstd's Huffman and FSE stages instead of Huffman alone. No runtime opens such a file; it is
for storing and sending, and is unpacked first.

Sources: RFC 8878, "Zstandard Compression and the 'application/zstd' Media Type"; Han et al. 2016, "Deep
Compression", section 4 (Huffman coding).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hasten.core.errors import ModelError, OutputError
from hasten.core.paths import size_of

SUFFIX = ".onnx.zst"
_MOST_BYTES = (1 << 31) - 1
"""What a protobuf message can hold."""
_FEW_BYTES, _MOST_TIMES = 64 << 20, 1000
"""A file may unfold to so many bytes whatever its size, and beyond that to so many times its size."""
_WINDOW_BYTES = 128 << 20
"""How far back a frame may refer: what ``zstd -d`` allows too, and so much memory unpacking takes."""
_PIECE_BYTES = 1 << 10
"""Bytes taken in at once: four of them can stand for 128 KiB."""
_HIGH, _LOW, _LARGE_BYTES = 19, 9, 128 << 20
"""Levels of compression for models below and above so many bytes: the high one is twenty times slower."""


def is_packed(path: Path) -> bool:
    """Whether a file is a compressed model by its name."""
    return path.name.lower().endswith(SUFFIX)


def pack(message: bytes, path: Path) -> None:
    """Write a serialized model as a compressed file with a checksum, whole or not at all.

    Raises OutputError.
    """
    import zstandard

    level = _LOW if len(message) > _LARGE_BYTES else _HIGH
    compressor = zstandard.ZstdCompressor(level=level, threads=-1, write_checksum=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(compressor.compress(message))
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def unpack(path: Path) -> bytes:
    """The serialized model in a compressed file, which may be anything; raises ModelError.

    Memory stays near the model's size: what would unfold to more than 2 GiB, or to more than 64 MiB and a
    thousand times its own size, is refused before it has.
    """
    try:
        size = size_of(path)
        most = min(_MOST_BYTES, max(_FEW_BYTES, _MOST_TIMES * size))
        found = bytearray()
        for piece in _pieces(path):
            found += piece
            if len(found) > most:
                raise ModelError(
                    f"its {size} bytes unfold to more than {most}: more than one ONNX message holds, or a "
                    "thousand times the file; if you trust it, unpack it with zstd -d and give the .onnx file"
                )
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}") from error
    return bytes(found)


def _pieces(path: Path) -> Iterator[bytes]:
    """What the frames of a file hold, one after the other, as ``zstd -d`` reads them."""
    import zstandard

    settings = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    frame = None
    with path.open("rb") as file:
        try:
            while rest := file.read(_PIECE_BYTES):
                while rest:
                    frame = frame or settings.decompressobj()
                    yield frame.decompress(rest)
                    rest = frame.unused_data
                    frame = None if frame.eof else frame
        except zstandard.ZstdError as error:
            raise ModelError(
                "it is not a zstd file, or it is damaged; make it with `hasten apply -o NAME.onnx.zst` or "
                f"`zstd NAME.onnx` ({error})"
            ) from error
    if frame is not None:
        raise ModelError("it is cut short: its last zstd frame does not end; copy or download it again")
