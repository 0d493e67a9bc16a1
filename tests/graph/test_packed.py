"""Compressed model files: written whole, read back, and refused when damaged or hostile."""

from __future__ import annotations

import os

import numpy as np
import pytest
import zstandard
from small_graphs import feeds_of, mlp

from hasten import loaders
from hasten.core.errors import InputError, ModelError, OutputError
from hasten.graph import packed
from hasten.graph.evaluate import Evaluator
from hasten.graph.packed import pack, unpack


def test_a_graph_comes_back_as_it_was(any_graph, tmp_path):
    path = tmp_path / "model.onnx.zst"
    assert any_graph.write(path) == (path,)
    assert os.listdir(tmp_path) == ["model.onnx.zst"]
    assert unpack(path) == any_graph.to_bytes()
    loaded = loaders.read(path)
    assert (loaded.source, loaded.format) == ("model.onnx.zst", "onnx")
    feeds = feeds_of(any_graph)
    wanted = Evaluator(any_graph).run(feeds)
    for name, value in Evaluator(loaded.graph).run(feeds).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6)


def test_other_programs_read_and_write_the_same_form(tmp_path):
    message = mlp().to_bytes()
    pack(message, tmp_path / "ours.onnx.zst")
    assert zstandard.ZstdDecompressor().decompress((tmp_path / "ours.onnx.zst").read_bytes()) == message
    # What `zstd --fast`, a stream without a known size, and pzstd's several frames look like.
    half = len(message) // 2
    theirs = zstandard.ZstdCompressor(level=-5, write_content_size=False)
    frames = theirs.compress(message[:half]) + theirs.compress(message[half:])
    (tmp_path / "theirs.onnx.ZST").write_bytes(frames)
    assert unpack(tmp_path / "theirs.onnx.ZST") == message


def test_a_large_model_is_compressed_at_a_lower_level(tmp_path, monkeypatch):
    message = mlp().to_bytes()
    monkeypatch.setattr(packed, "_LARGE_BYTES", 1000)
    pack(message, tmp_path / "m.onnx.zst")
    assert unpack(tmp_path / "m.onnx.zst") == message


def damaged(message: bytes) -> dict[str, tuple[bytes, str]]:
    whole = zstandard.ZstdCompressor(write_checksum=True).compress(message)
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 0x55
    far = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    writer = zstandard.ZstdCompressor(compression_params=far).compressobj()
    return {
        "empty": (b"", "the file is empty"),
        "not zstd": (message, "not a zstd file"),
        "cut": (whole[: len(whole) // 2], "cut short|damaged"),
        "last byte missing": (whole[:-1], "cut short"),
        "cut in the header": (whole[:3], "cut short"),
        "flipped": (bytes(flipped), "damaged"),
        "more behind": (whole + b"garbage behind it", "damaged"),
        "wide window": (writer.compress(message) + writer.flush(), "too much memory"),
        "no model": (zstandard.compress(b"not a model at all" * 9), "not an ONNX model"),
        "nothing": (zstandard.compress(b""), "malformed|ONNX|graph|model"),
    }


@pytest.mark.parametrize("case", list(damaged(b"x")))
def test_damage_is_named(case, tmp_path):
    content, message = damaged(mlp().to_bytes())[case]
    path = tmp_path / "bad.onnx.zst"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as refused:
        loaders.read(path)
    assert str(refused.value).startswith("bad.onnx.zst: ")


def test_a_bomb_is_refused_before_it_unfolds(tmp_path):
    path = tmp_path / "bomb.onnx.zst"
    writer = zstandard.ZstdCompressor().compressobj()
    zeros = bytes(1 << 24)
    path.write_bytes(b"".join([*(writer.compress(zeros) for _ in range(64)), writer.flush()]))
    assert path.stat().st_size < 100_000
    with pytest.raises(ModelError, match=r"unfold to more than .* zstd -d"):
        unpack(path)


def test_weights_must_be_inside(tmp_path):
    import onnx

    model = onnx.load_from_string(mlp().to_bytes())
    onnx.external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, tmp_path / "m.onnx")
    pack((tmp_path / "m.onnx").read_bytes(), tmp_path / "m.onnx.zst")
    with pytest.raises(ModelError, match=r"m\.onnx\.zst: "):
        loaders.read(tmp_path / "m.onnx.zst")


def test_another_name_says_how_to_call_it(tmp_path):
    (tmp_path / "m.zst").write_bytes(b"x")
    with pytest.raises(InputError, match=r"call it NAME\.onnx\.zst"):
        loaders.read(tmp_path / "m.zst")


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        mlp().write(tmp_path / "absent" / "m.onnx.zst")
    with pytest.raises(ModelError, match="no such file"):
        unpack(tmp_path / "m.onnx.zst")
