"""May this ``.keras`` file be opened? A look inside before Keras does.

The file is a zip archive: ``config.json`` says which classes to make with which arguments,
``model.weights.h5`` holds the numbers. Keras' safe mode refuses pickled Python code alone, while the
configuration may also name classes and functions anywhere in Keras, files to read and whole programs of other
frameworks. Layers need none of that, so a file that uses it is refused.

Format: https://keras.io/guides/serialization_and_saving/
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from hasten.core.errors import ModelError
from hasten.core.paths import size_of
from hasten.loaders.names import shown

_MEMBERS = re.compile(r"config\.json|metadata\.json|model\.weights\.(h5|npz)|assets/[^\\:]*")
_LARGEST_EXPANSION = 20
"""Keras stores members as they are; zipped again, weights shrink a little and text to a tenth."""
_LARGEST_CONFIG_BYTES = 64 << 20

_ROOMS = (
    "layers|models|ops|initializers|regularizers|constraints|activations|quantizers|dtype_policies|random"
    "|losses|metrics|optimizers"
)
_MODULE = re.compile(rf"keras(\.({_ROOMS}))?|keras\.src\.(engine|{_ROOMS}|backend\.\w+\.optimizers)(\.\w+)*")
_PLAIN_VALUES = frozenset(
    {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
)
_PROGRAMS = frozenset({"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})
_WAY_OUT = "write package.module:function that returns the model, and give that"


def screen(path: Path) -> None:
    """Raise ModelError when the file is no ``.keras`` archive, or asks for more than Keras' own layers."""
    try:
        size = size_of(path)
        with zipfile.ZipFile(path) as archive:
            _screen_members(archive, size)
            config = json.loads(archive.read("config.json"))
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, RecursionError):
            raise ModelError("it is nested too deeply to be a model") from error
        raise ModelError(f"it is not a .keras file, or it is damaged: {error}") from error
    if not isinstance(config, dict) or "class_name" not in config:
        raise ModelError("it is not a model: its config.json names no class")
    try:
        # How it was trained is not opened, so what of it was custom does not matter.
        _screen_value({key: value for key, value in config.items() if key != "compile_config"}, "")
    except RecursionError as error:
        raise ModelError("it is nested too deeply to be a model") from error


def _screen_members(archive: zipfile.ZipFile, file_bytes: int) -> None:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise ModelError("it holds two files of the same name, so readers could disagree about its content")
    for name, entry in entries.items():
        if not _MEMBERS.fullmatch(name) or ".." in name or name.startswith("assets//"):
            raise ModelError(f"it holds {shown(name)}, which model.save of Keras 3 does not write")
        if entry.file_size > _LARGEST_EXPANSION * file_bytes:
            raise ModelError(
                f"{shown(name)} in it claims {entry.file_size} bytes, the whole file has {file_bytes}"
            )
    if "config.json" not in entries:
        raise ModelError("it holds no config.json; save the model with model.save('model.keras') of Keras 3")
    if entries["config.json"].file_size > _LARGEST_CONFIG_BYTES:
        raise ModelError(
            f"its config.json has {entries['config.json'].file_size} bytes, too many for a model"
        )


def _screen_value(value: Any, owner: str) -> None:
    if isinstance(value, list):
        for inner in value:
            _screen_value(inner, owner)
    elif isinstance(value, dict):
        if "class_name" in value:
            owner = _named(value) or owner
            _screen_object(value, owner)
        for key, inner in value.items():
            if key == "vocabulary" and isinstance(inner, str):
                raise ModelError(
                    f"layer {shown(owner)} reads its vocabulary from the file {shown(inner)}; "
                    "save the model with the vocabulary as a list"
                )
            _screen_value(inner, owner)


def _screen_object(value: dict[str, Any], owner: str) -> None:
    """Raise ModelError unless an object of the configuration is one of Keras' own, and no program."""
    name, module, registered = (value.get(key) for key in ("class_name", "module", "registered_name"))
    if name in ("Lambda", "__lambda__"):
        raise ModelError(
            f"layer {shown(owner)} is a Lambda: Python code in the file, which could do anything; use a "
            f"layer of Keras or keras.ops in its place and save again, or {_WAY_OUT}"
        )
    if name in _PROGRAMS:
        raise ModelError(
            f"layer {shown(owner)} is a {name}: a program of another framework, which could do anything; "
            + _WAY_OUT
        )
    if name in _PLAIN_VALUES or (module is None and registered is None and "module" not in value):
        return
    if name == "function" and module == "builtins":
        return  # a name that Keras looks up among its own activations, losses and metrics
    own = isinstance(module, str) and _MODULE.fullmatch(module) is not None
    if not own or registered not in (None, name, value.get("config")):
        raise ModelError(
            f"layer {shown(owner)} needs {shown(f'{module}.{name}' if module else str(registered or name))}, "
            f"which is not part of Keras; {_WAY_OUT}"
        )


def _named(value: dict[str, Any]) -> str:
    config = value.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return name if isinstance(name, str) else ""
