"""How does a graph learn? ONNX operators as differentiable torch functions, a module, and the way back.

``to_torch(graph)`` compiles a graph once into a list of steps (``program``), each one function of torch
tensors made by a factory from the table of operators (``ops``), and holds the weights as parameters under
their names in the graph (``module``). ``module.to_graph()`` puts the trained weights back (``write_back``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hasten.core.errors import Unavailable

if TYPE_CHECKING:
    from hasten.bridge.module import GraphModule, to_torch

INSTALL = "install it with: pip install 'hasten[torch]'"
__all__ = ["GraphModule", "to_torch"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'hasten.bridge' has no attribute {name!r}")
    try:
        from hasten.bridge import module
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise Unavailable("training needs PyTorch, which is not installed", INSTALL) from None
    return getattr(module, name)
