"""``package.module:function``: what it returns decides which framework converts it.

The function is called in a child process, once; what it returns is converted there.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hasten.core.errors import InputError, ModelError, Unavailable
from hasten.core.named import resolve, user_code
from hasten.core.recipe import Json
from hasten.loaders.agree import read_runs
from hasten.loaders.conversion import Conversion, convert_in_child, finish, workspace
from hasten.loaders.keras_backend import backend_environment
from hasten.loaders.loaded import Loaded, Request


def load(request: Request) -> Loaded:
    """Convert what the function returns and check the answers; raises InputError or ModelError."""
    if find_spec("torch") is None and find_spec("keras") is None:
        raise Unavailable(
            f"{request.name} needs PyTorch or Keras, and neither is installed",
            "pip install 'hasten[torch]' or 'hasten[keras]'",
        )
    with workspace(request) as folder:
        made = convert_in_child(request, "function:convert_named", folder, backend_environment())
        return finish(request, made, folder)


def convert_named(source: str, inputs: list[str], samples: str | None, work: str) -> dict[str, Json]:
    """Child side: convert what ``package.module:function`` returns, as ``Conversion.to_json``.

    Raises InputError, ModelError.
    """
    function = resolve(source)
    with user_code("calling the function", ModelError):
        made = function()
    given = None if samples is None else read_runs(Path(samples))
    return _convert(made, inputs, given, Path(work)).to_json()


def _convert(made: Any, inputs: list[str], samples: Any, work: Path) -> Conversion:
    # Whatever class it is of, its module is imported already.
    if "keras" in sys.modules and isinstance(made, sys.modules["keras"].Model):
        from hasten.loaders.keras_export import convert as convert_keras

        try:
            return convert_keras(made, inputs, samples, work)
        except Unavailable as error:
            raise InputError(str(error)) from error
    if "torch" in sys.modules:
        from hasten.loaders.torch_export import Source, convert

        if isinstance(made, Source):
            return convert(made, inputs, samples, work)
    return Conversion(format="onnx", onnx=_write_foreign(made, work))


def _write_foreign(made: object, work: Path) -> Path:
    import onnx

    if not isinstance(made, onnx.ModelProto):
        raise ModelError(
            f"the function returned a {type(made).__module__}.{type(made).__qualname__}; it must return a "
            "torch.nn.Module, a torch.export.ExportedProgram, a keras.Model or an onnx.ModelProto"
        )
    path = work / "returned.onnx"
    path.write_bytes(made.SerializeToString())
    return path
