"""House rules that a reader of the tree relies on."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hasten

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hasten"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES} - {PACKAGE})
HEAVY = ("numpy", "torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "pydantic", "scipy")
MOST_LINES_OF_FILE = 400
MOST_LINES_OF_FUNCTION = 60
SHARED = {"_branches", "_exact", "_factors", "_narrow", "_observe", "_qat"}
"""Parts of several methods: residual branches; rewrites that change no function; several operators for one
layer; narrower layers; what layers read on calibration samples; integers that learn."""

by_path = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def imports_of(path: Path) -> set[str]:
    """Dotted names of all modules a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_folder_begins_with_its_question(folder):
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert text
    assert re.match(r"[^.;]+\?(\s|$)", text.splitlines()[0])


@by_path
def test_files_and_functions_are_of_a_size_to_read(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES_OF_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # From the first statement: a command of many options has a long signature and nothing to follow
            lines = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
            assert lines <= MOST_LINES_OF_FUNCTION, f"{node.name}: {lines} lines"


@by_path
def test_nothing_is_left_to_do_or_unnamed(path):
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError", path.read_text(encoding="utf-8"))


@by_path
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_methods_do_not_import_each_other():
    public = {path.stem for path in (PACKAGE / "methods").glob("*.py")} - {"__init__"}
    for path in (PACKAGE / "methods").rglob("*.py"):
        for other in public - {path.stem}:
            assert f"hasten.methods.{other}" not in imports_of(path), path


def test_private_parts_of_a_method_serve_one_method():
    owners: dict[str, set[str]] = {}
    for path in (PACKAGE / "methods").glob("*.py"):
        for name in imports_of(path):
            found = re.match(r"hasten\.methods\.(_\w+)", name)
            if found:
                owners.setdefault(found[1], set()).add(path.stem)
    assert all(len(users) == 1 for name, users in owners.items() if name not in SHARED), owners


def test_the_report_is_a_function_of_the_record_alone():
    banned = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino", "torch")
    for path in (PACKAGE / "report").rglob("*.py"):
        roots = {name.split(".")[0] for name in imports_of(path)}
        assert not roots & set(banned), path


def modules_after(statement: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light():
    assert not modules_after("import hasten") & set(HEAVY)


def test_nouns_need_no_framework():
    loaded = modules_after("import hasten.core.record, hasten.core.data, hasten.core.budget")
    assert not loaded & {"torch", "onnx", "onnx_ir", "onnxruntime", "openvino"}


def test_the_table_of_methods_loads_no_runtime():
    loaded = modules_after("from hasten import methods, targets")
    assert not loaded & {"torch", "onnxruntime", "openvino"}


@pytest.mark.parametrize("name", hasten.__all__)
def test_public_names_resolve(name):
    assert getattr(hasten, name) is not None


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no_such_name"):
        hasten.no_such_name  # noqa: B018


def test_the_product_refers_to_nobodys_machine():
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    for path in (*FILES, *pages, *(ROOT / "examples").rglob("*.py")):
        found = re.search(r"(?<![\w.])/(?:work|root|home)/|\.\./shared", path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found}"


def test_links_between_pages_lead_somewhere():
    for page in (*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"
