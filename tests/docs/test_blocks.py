"""Every block of code in the documentation runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import pages as documentation
from .pages import ROOT, Block, blocks, pages

BLOCK_LIMIT_S = 540.0


def runnable(page: Path, seen: set[str]) -> list[Block]:
    """The blocks to run; a page whose blocks all stand in an earlier one (a translation) has none."""
    found = [block for block in blocks(page) if not block.skip]
    code = {block.code for block in found}
    if code <= seen:
        return []
    seen |= code
    return found


def cases() -> Iterator[object]:
    seen: set[str] = set()
    for page in pages():
        found = runnable(page, seen)
        if found:
            marks = [pytest.mark.slow] if any(block.slow for block in found) else []
            yield pytest.param(found, id=str(page.relative_to(ROOT)), marks=marks)


def start(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block in a process of its own, with ``hasten`` and ``python`` on the path."""
    program = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run(
        [*program, block.code],
        cwd=folder,
        env={**os.environ, "PATH": paths, "COLUMNS": "120", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=BLOCK_LIMIT_S,
        check=False,
    )


def check(block: Block, folder: Path) -> None:
    if block.file is not None:
        (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.file).write_text(block.code, encoding="utf-8")
    if block.language == "yaml":
        check_yaml(block)
    elif block.file is None:
        done = start(block, folder)
        printed = f"{block.where} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        assert done.returncode in block.statuses, printed


def check_yaml(block: Block) -> None:
    import yaml

    from hasten import methods
    from hasten.core.recipe import Recipe

    held = yaml.safe_load(block.code)
    assert held is not None, block.where
    if isinstance(held, dict) and "steps" in held:
        methods.validate(Recipe.parse(held))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("found", list(cases()))
def test_the_blocks_of_a_page_run(found: list[Block], tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    for block in found:
        check(block, tmp_path)


def test_pages_with_blocks_are_found() -> None:
    assert sum(len(blocks(page)) for page in pages()) > 10
    assert {"README.md", "tutorials"} <= {name for page in pages() for name in (page.name, page.parent.name)}


def page_of(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Block]:
    monkeypatch.setattr(documentation, "ROOT", folder)
    (folder / "page.md").write_text(text, encoding="utf-8")
    return blocks(folder / "page.md")


GOOD = """
Text `<!-- test: slow -->` in a line.

<!-- test: skip (needs the network) -->
```bash
curl example.org
```

<!-- file: a/net.py -->
<!-- test: slow -->
```python
x = 1
```

- in a list:

  ```bash
  true
    indented
  ```

```text
not run
```
"""


def test_comments_before_blocks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = page_of(GOOD, tmp_path, monkeypatch)
    assert first.skip
    assert (second.file, second.slow, second.skip) == ("a/net.py", True, False)
    assert third.code == "true\n  indented\n"
    assert not third.slow


@pytest.mark.parametrize("comment", ["test: skip", "test: maybe", "test: status ok"])
def test_comments_nobody_understands_are_errors(
    comment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="means nothing"):
        page_of(f"<!-- {comment} -->\n```bash\ntrue\n```\n", tmp_path, monkeypatch)


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    check(Block("here", "bash", "exit 3", statuses=frozenset({3})), tmp_path)
    with pytest.raises(AssertionError, match="here ended with 1"):
        check(Block("here", "bash", "false\ntrue"), tmp_path)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        check(Block("here", "python", "1 / 0"), tmp_path)
