"""Write the pages of the documentation that are made from the program: ``docs/cli.md``, ``docs/record.md``.

python scripts/write_docs.py            writes them
python scripts/write_docs.py --check    ends with status 1 when they are not up to date
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from hasten.core.layers import Blocks, Kernel, LayerCost, LayerError
from hasten.core.measurement import Comparison, Measurement, Record
from hasten.core.record import (
    SCHEMA_VERSION,
    Artifact,
    Best,
    BudgetInfo,
    Considered,
    DataInfo,
    FileEntry,
    Finalist,
    Flips,
    MachineInfo,
    ModelInfo,
    Quality,
    RunRecord,
    Scorecard,
    Site,
    Skip,
    SourceRuntime,
    Trial,
)

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = ("optimize", "inspect", "apply", "measure", "verify", "explain", "report", "targets", "methods")
WIDTH = 100

CLI_HEAD = """\
# The command line

What `hasten --help` and `hasten COMMAND --help` print. This page is written by `scripts/write_docs.py`.

`MODEL` is a path (`.onnx`, `.onnx.zst`, `.pt2`, `.keras`, a SavedModel folder) or `package.module:function`
that returns a `torch.nn.Module` or a Keras model. `hasten measure` takes what a runtime opens: `.onnx`,
`.onnx.zst` and `.pt2` files, an OpenVINO `.xml` file, or a folder that `hasten optimize` saved. `DATA` is an
`.npz` file with arrays named as the model's inputs and, if there are any, `labels`; a `.parquet` file; a
folder of pictures; or `package.module:function` that returns arrays or an iterable of batches. The
current folder is searched for such modules too.

Exit status:

| status | meaning |
|---|---|
| 0 | done; for `optimize`: a better model was saved |
| 1 | a fault of hasten's own, with a traceback and a line on how to report it |
| 2 | bad arguments or input; one line says what is wrong, where, and how to mend it |
| 3 | `optimize`: nothing qualified, the original was saved; `verify`: a claim does not hold |
| 130 | interrupted; finished trials are kept and `--resume` continues |
"""

RECORD_HEAD = f"""\
# The record: hasten.json

`hasten optimize -o DIR` writes `DIR/hasten.json`: everything that was tried, measured and concluded, and
under which conditions. `report.html` is made from it alone, and `hasten verify` checks its claims. This
page is written by `scripts/write_docs.py` from the classes in `hasten/core/`; the schema
version is {SCHEMA_VERSION}.

A key that is not listed here is refused on reading. `null` means that it was not measured, or that there is
none. `hasten.RunRecord.read("DIR")` reads a record; the top level is a [RunRecord](#runrecord).
"""

MODELS: tuple[type[Record], ...] = (
    RunRecord, MachineInfo, ModelInfo, DataInfo, BudgetInfo, Trial, Scorecard, Quality, Flips, Measurement,
    Comparison, Best, LayerCost, Kernel, LayerError, Site, Skip, Artifact, FileEntry, SourceRuntime,
    Considered, Blocks, Finalist,
)  # fmt: skip


def cli_page() -> str:
    """``docs/cli.md``."""
    parts = [CLI_HEAD]
    for arguments in ((), *((name,) for name in COMMANDS)):
        title = " ".join(("hasten", *arguments))
        parts.append(f"## {title}\n\n```text\n{_help(arguments)}\n```\n")
    return "\n".join(parts)


def _help(arguments: tuple[str, ...]) -> str:
    """What ``--help`` prints, on a terminal of a fixed width and without colour."""
    done = subprocess.run(
        [sys.executable, "-m", "hasten.cli.main", *arguments, "--help"],
        env={
            **os.environ,
            "COLUMNS": str(WIDTH),
            "TERMINAL_WIDTH": str(WIDTH),
            "NO_COLOR": "1",
            "TERM": "dumb",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    text = done.stdout.replace("python -m hasten.cli.main", "hasten")
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def record_page() -> str:
    """``docs/record.md``."""
    return "\n".join([RECORD_HEAD, *map(_section, MODELS)])


def _section(model: type[Record]) -> str:
    schema = model.model_json_schema(mode="serialization")
    # A model that holds others of its own kind is described beside its parts.
    described = schema["$defs"][model.__name__] if "$ref" in schema else schema
    properties: dict[str, dict[str, Any]] = described["properties"]
    rows = [f"| `{name}` | {_type(model, name, value)} |" for name, value in properties.items()]
    return "\n".join(
        [f"## {model.__name__}", "", _prose(model), "", "| key | value |", "|---|---|", *rows, ""]
    )


def _prose(model: type[Record]) -> str:
    """The docstring as Markdown; a line that begins with names of keys begins a list entry."""
    text = inspect.cleandoc(model.__doc__ or "").replace("``", "`")
    lines = re.sub(r"\bNone\b", "`null`", text).split("\n")
    keys = "|".join(model.model_fields)
    made = []
    for line in lines:
        found = re.match(rf"((?:{keys})(?:, (?:{keys}))*): (.*)", line)
        if found:
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            made.append(f"- {names}: {found[2]}")
        else:
            made.append(f"  {line}" if made and made[-1].startswith(("- ", "  ")) and line else line)
    return "\n".join(made)


def _type(model: type[Record], name: str, described: dict[str, Any]) -> str:
    if name == "recipe":
        return "object: `steps`, a list of `{method: {parameter: value}}`"
    return _written(described)


def _written(described: dict[str, Any]) -> str:
    """A JSON schema in words, with links to the other sections."""
    match described:
        case {"$ref": str(reference)}:
            target = reference.rpartition("/")[2]
            text = f"[{target}](#{target.lower()})"
        case {"anyOf": options}:
            text = " or ".join(map(_written, options))
        case {"enum": values}:
            text = " or ".join(f"`{value}`" for value in values)
        case {"type": "array", "prefixItems": items}:
            text = f"[{', '.join(map(_written, items))}]"
        case {"type": "array", "items": items}:
            text = f"list of {_written(items)}"
        case {"type": "object", "additionalProperties": values}:
            text = f"object: {_written(values)} by name"
        case _:
            text = str(described["type"])
    return text


PAGES = {DOCS / "cli.md": cli_page, DOCS / "record.md": record_page}


def main() -> int:
    """Write or check the pages; returns the exit status."""
    stale = 0
    for path, make in PAGES.items():
        made = make()
        held = path.read_text(encoding="utf-8") if path.exists() else ""
        if held == made:
            continue
        if sys.argv[1:] == ["--check"]:
            stale += 1
            difference = difflib.unified_diff(
                held.splitlines(), made.splitlines(), path.name, "made now", lineterm=""
            )
            print("\n".join(difference))
        else:
            path.write_text(made, encoding="utf-8")
            print(f"wrote {path}")
    if stale:
        print("run: python scripts/write_docs.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
