"""Names in an untrusted model: are they text, and how does a message show them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from hasten.core.errors import ModelError

_LONGEST_SHOWN = 80


def shown(name: str) -> str:
    """A name in quotes, without control characters, cut to a length that fits a message."""
    return repr(name if len(name) <= _LONGEST_SHOWN else name[: _LONGEST_SHOWN - 1] + "…")


def label(node: onnx.NodeProto) -> str:
    """How a message refers to a node: by name, or by its first output when it has none."""
    kind = node.op_type if node.op_type.isidentifier() and len(node.op_type) < 40 else shown(node.op_type)
    if node.name:
        return f"node {shown(node.name)} ({kind})"
    first = next((name for name in node.output if name), "")
    return f"the node that makes {shown(first)} ({kind})"


def check_text(message: Any) -> None:
    """Raise ModelError for a text field, anywhere in a protobuf message, that is not UTF-8.

    The parser lets such text through, as bytes, and it would fail wherever it is first used.
    """
    for text in _texts(message):
        if not isinstance(text, str):
            raise ModelError(f"the name {bytes(text)[:40]!r} in it is not valid UTF-8; the file is damaged")


def _texts(message: Any) -> Iterator[str | bytes]:
    """All text fields; of tensors only the names, since their contents are large and are bytes."""
    if isinstance(message, onnx.TensorProto):
        yield message.name
        yield message.doc_string
        for part in (*message.external_data, *message.metadata_props):
            yield from (part.key, part.value)
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            yield from value if field.is_repeated else (value,)
        elif field.type == field.TYPE_MESSAGE:
            for part in value if field.is_repeated else (value,):
                yield from _texts(part)
