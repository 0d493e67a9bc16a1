"""May this ``.pt2`` file be opened? A look inside before torch does.

``torch.export.load`` trusts what it opens: it unpickles constants, loads compiled libraries, evaluates
symbolic expressions and guards as Python, calls whatever operator a node names, and writes names into
generated code. An exported network needs none of that freedom, so a file that uses it is refused.
Unpickling of tensors is held to ``weights_only``.
"""

from __future__ import annotations

import ast
import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hasten.core.errors import ModelError

SIGNATURE_SUFFIX = ".signature.json"
"""Beside a program the loader wrote: its inputs' and outputs' names in the graph, in order."""

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|models/model\.json|extra/.*"
    r"|data/(weights|constants|sample_inputs)/[\w.]+"
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_PLAIN = re.compile(r"[\w.]*")
_OPERATOR = re.compile(
    r"torch\.ops\.(?!_)\w+\.(?:(?!__)\w+|__(?:and|or|xor|lshift|rshift|iand|ior|ixor|ilshift|irshift)__)"
    r"(?:\.(?!__)\w+)?"
    r"|torch\.(?:sym_(?!_)\w+|_sym_\w+)"
    r"|math\.(?!_)\w+"
    r"|_operator\.(?:getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|xor"
    r"|not_|invert|lshift|rshift|matmul|index)"
)
_FREE_TEXT = frozenset(
    {"metadata", "as_string", "as_strings", "torch_version", "guards_code", "in_spec", "out_spec"}
)
"""Keys whose text is data to torch: never code, or (guards) dropped before it would become code."""
_NUMBERS = frozenset({"as_float", "as_floats", "real", "imag"})
_NOT_FINITE = frozenset({"Infinity", "-Infinity", "NaN"})
"""How numbers that JSON cannot write are written."""

# fmt: off
_EXPRESSIONS = frozenset((
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Abs", "Eq", "Ne",
    "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "Lt", "Le",
    "Gt", "Ge", "And", "Or", "Not", "Piecewise", "ExprCondPair", "floor", "ceiling", "FloorDiv",
    "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift",
    "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator",
    "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity",
))
_NODES = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp,
    ast.Compare, ast.operator, ast.unaryop, ast.cmpop,
)
# fmt: on


def screen(path: Path) -> None:
    """Raise ModelError when the file is no ``.pt2`` of ``torch.export.save``, or could run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            _screen_members(archive, path.stat().st_size)
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, EOFError, KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"it is not a .pt2 file, or it is damaged: {error}") from error
    except RecursionError as error:
        raise ModelError("it is nested too deeply to be an exported program") from error


def _screen_members(archive: zipfile.ZipFile, file_bytes: int) -> None:
    members = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise ModelError("it holds two files of the same name, so readers could disagree about its content")
    if "models/model.json" not in members:
        raise ModelError("it holds no program; save it again with torch.export.save of torch 2.8 or newer")
    for name, entry in members.items():
        if not _MEMBERS.fullmatch(name) or ".." in name:
            raise ModelError(f"it holds {name!r}, which torch.export.save does not write for a plain program")
        if entry.file_size > file_bytes:
            raise ModelError(f"{name!r} in it claims {entry.file_size} bytes, more than the whole file has")
    for name, entry in members.items():
        if name.endswith("_config.json"):
            _screen_payloads(json.loads(archive.read(entry)))
    program = json.loads(archive.read(members["models/model.json"]))
    _screen_value(program, "")


def _screen_payloads(config: Any) -> None:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise ModelError("its list of weights is malformed")
    for name, entry in entries.items():
        kind = str(entry.get("path_name", "")) if isinstance(entry, dict) else ""
        if not _PAYLOAD.fullmatch(kind) or entry.get("use_pickle"):
            raise ModelError(
                f"{name[:80]!r} in it is a pickled object, which could run code; "
                "export the program with plain tensors only"
            )


def _screen_value(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            if key not in _FREE_TEXT:
                _screen_text(inner_key, "name")
            _screen_value(inner, key if key in _FREE_TEXT else inner_key)
    elif isinstance(value, list):
        for inner in value:
            _screen_value(inner, key)
    elif isinstance(value, str):
        _screen_text(value, key)


def _screen_text(text: str, key: str) -> None:
    if key == "expr_str":
        _screen_expression(text)
    elif key in ("target", "as_operator"):
        if not _OPERATOR.fullmatch(text):
            raise ModelError(f"a node of it calls {text[:80]!r}, which is not an operator of torch")
    elif key in ("in_spec", "out_spec"):
        if "defaultdict" in text:
            raise ModelError("its inputs or outputs are a defaultdict; return plain tuples or dicts")
    elif key in _NUMBERS and text in _NOT_FINITE:
        return
    elif key not in _FREE_TEXT and not _PLAIN.fullmatch(text):
        raise ModelError(f"{text[:80]!r} in it is not a name")


def _screen_expression(text: str) -> None:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError) as error:
        raise ModelError(f"the size {text[:80]!r} in it is not an expression") from error
    for node in ast.walk(tree):
        harmless = isinstance(node, _NODES)
        if isinstance(node, ast.Call):
            harmless = isinstance(node.func, ast.Name) and node.func.id in _EXPRESSIONS
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            harmless = re.fullmatch(r"\w+", node.value) is not None
        elif isinstance(node, ast.Name):
            harmless = (
                re.fullmatch(r"[suz]+\d+|oo|int_oo|true|false|[A-Z]\w+|floor|ceiling", node.id) is not None
            )
        if not harmless:
            raise ModelError(f"the size {text[:80]!r} in it is more than arithmetic")


def open_program(path: Path) -> Any:
    """The ``torch.export.ExportedProgram`` of a screened file, its guards dropped.

    Guards are Python source; what they would check, the shapes, is checked by the operators themselves.
    Raises ModelError, and whatever torch raises for a file that is damaged further inside.
    """
    import torch

    screen(path)
    with _weights_only():
        program = torch.export.load(path)
    program._guards_code = []
    return program


@contextmanager
def _weights_only() -> Iterator[None]:
    """Hold ``torch.load`` to plain tensors: ``torch.export.load`` would fall back to unpickling anything."""
    force, forbid = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (force, forbid)}
    os.environ[force] = "1"
    try:
        yield
    finally:
        del os.environ[force]
        os.environ.update({name: text for name, text in before.items() if text is not None})
