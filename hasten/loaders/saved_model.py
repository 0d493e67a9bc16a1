"""May this SavedModel be opened? A look at its graph before TensorFlow does.

A SavedModel is a program: its operations can read and write files, and call Python by name. Every SavedModel
holds operations that save and restore its checkpoint; they are fine where nothing but that reaches them.

Format: tensorflow/core/protobuf/saved_model.proto, meta_graph.proto, saved_object_graph.proto and
tensorflow/core/framework/graph.proto; of them the fields named below, under their numbers there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from hasten.core.errors import ModelError
from hasten.loaders.names import shown

_LARGEST_BYTES = (1 << 31) - 1

_CHECKPOINT = frozenset(
    {"Save", "SaveSlices", "SaveV2", "Restore", "RestoreSlice", "RestoreV2", "MergeV2Checkpoints"}
)
"""Write or read any file, as every SavedModel does with its own checkpoint."""

_UNSAFE = re.compile(
    r"(Read|Write)File|MatchingFiles|.*(Reader|ReaderV2)|Reader.*|ImmutableConst"
    r"|(Eager)?PyFunc(Stateless)?|Print(V2)?|.*Summary.*|Debug(Identity|NanCount|NumericSummary)V?\d*"
    r"|.*Dataset.*|.*Iterator.*|Rpc.*|TryRpc|.*Tpu.*|.*TPU.*|XlaLaunch.*|Xla.*HostCompute.*|.*FromTextFile(V2)?"
    r"|.*LMDB.*|CollectiveInitialize.*|.*BigQuery.*|.*(Send|Recv)|LoadAndRemap.*|GenerateVocabRemapping"
    r"|.*CheckpointFile.*|CheckpointExists|.*Filesystem.*|.*Snapshot.*"
)
"""Operators that reach files, the network, Python or other devices."""

_FIELDS: Mapping[str, tuple[tuple[str, int, str], ...]] = {
    "SavedModel": (("meta_graphs", 2, "MetaGraph*"),),
    "MetaGraph": (
        ("graph_def", 2, "Graph"),
        ("saver_def", 3, "Saver"),
        ("object_graph_def", 7, "Objects"),
    ),
    "Graph": (("node", 1, "Node*"), ("library", 2, "Library")),
    "Library": (("function", 1, "Function*"),),
    "Function": (("signature", 1, "Signature"), ("node_def", 3, "Node*")),
    "Signature": (("name", 1, "string"),),
    "Node": (("name", 1, "string"), ("op", 2, "string"), ("attr", 5, "Entry*")),
    "Entry": (("key", 1, "string"), ("value", 2, "Attribute")),
    "Attribute": (("list", 1, "List"), ("func", 10, "Name")),
    "List": (("func", 9, "Name*"),),
    "Name": (("name", 1, "string"),),
    "Saver": (("save_tensor_name", 2, "string"), ("restore_op_name", 3, "string")),
    "Objects": (("concrete_functions", 2, "Concrete*"),),
    "Concrete": (("key", 1, "string"),),
}
"""Of each message the fields that are read: name, number, type (a star: repeated)."""


def screen(folder: Path) -> None:
    """Raise ModelError when the folder is no SavedModel of TensorFlow 2, or its graph could do harm."""
    path = folder / "saved_model.pb"
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ModelError("its saved_model.pb is too large to be one")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}") from error
    saved = _message("SavedModel")()
    try:
        saved.ParseFromString(content)
    except DecodeError as error:
        raise ModelError("it is not a SavedModel, or it is damaged; copy or export it again") from error
    if not saved.meta_graphs:
        raise ModelError("it is not a SavedModel, or it is damaged: it holds no graph")
    for part in saved.meta_graphs:
        if not part.HasField("object_graph_def"):
            raise ModelError(
                "it was written by TensorFlow 1; load it in TensorFlow 2 with tf.saved_model.load and write "
                "it with tf.saved_model.save"
            )
        _screen_graph(part)


def _screen_graph(part: Any) -> None:
    functions = {function.signature.name: function.node_def for function in part.graph_def.library.function}
    if len(functions) != len(part.graph_def.library.function):
        raise ModelError(
            "it holds two functions of the same name, so readers could disagree about its content"
        )
    saving = {part.saver_def.save_tensor_name.partition(":")[0], part.saver_def.restore_op_name}
    nodes = part.graph_def.node
    entry = [entry.key for entry in part.object_graph_def.concrete_functions]
    begin = [*entry, *_called(node for node in nodes if node.name not in saving)]
    reached = _reached(begin, functions)
    for node in nodes:
        _screen_node(node, "its graph", checkpoint=node.name in saving)
    for name, body in functions.items():
        for node in body:
            _screen_node(node, f"function {shown(name)}", checkpoint=name not in reached)


def _screen_node(node: Any, where: str, *, checkpoint: bool) -> None:
    if _UNSAFE.fullmatch(node.op) or (node.op in _CHECKPOINT and not checkpoint):
        raise ModelError(
            f"node {shown(node.name)} in {where} is a {shown(node.op)}, which can reach files, the network "
            "or Python; export the model without it (its forward pass alone)"
        )


def _reached(begin: Iterable[str], functions: Mapping[str, Any]) -> set[str]:
    """The functions that these call, and they themselves."""
    reached: set[str] = set()
    waiting = list(begin)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(_called(functions.get(name, ())))
    return reached


def _called(nodes: Iterable[Any]) -> Iterator[str]:
    """The functions that nodes name; an operator may be the name of a function too."""
    for node in nodes:
        yield node.op
        for attribute in node.attr:
            yield attribute.value.func.name
            yield from (function.name for function in attribute.value.list.func)


@cache
def _message(name: str) -> Any:
    """The class of a message with the fields above; what else a file holds is skipped."""
    file = descriptor_pb2.FileDescriptorProto(
        name="hasten_saved_model.proto", package="hasten", syntax="proto3"
    )
    for kind, fields in _FIELDS.items():
        message = file.message_type.add(name=kind)
        for field_name, number, type_name in fields:
            base = type_name.removesuffix("*")
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if type_name.endswith("*") else field.LABEL_OPTIONAL
            if base == "string":
                field.type = field.TYPE_STRING
            else:
                field.type, field.type_name = field.TYPE_MESSAGE, f".hasten.{base}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"hasten.{name}"))
