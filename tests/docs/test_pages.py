"""Links lead somewhere, and the pages made from the program are up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .pages import ROOT, links, pages, slugs

by_page = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {path}"
        assert target.is_relative_to(ROOT), f"{page}: {path}"
        if anchor and target.suffix == ".md":
            assert anchor in slugs(target), f"{page}: {path}#{anchor}"


@by_page
def test_pages_have_one_title(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# "), page


def test_pages_made_from_the_program_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "write_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_tutorial_is_listed() -> None:
    folder = ROOT / "docs" / "tutorials"
    listed = {path for path, _ in links(folder / "README.md")}
    assert {page.name for page in folder.glob("*.md")} - {"README.md"} <= listed


def test_links_are_found_and_anchors_made(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c: d\n[x](y.md#a-b) ![p](p.png) [w](https://example.org) `[no](no.md)`\n"
        '<img src="i.png">\n```text\n[no](no.md)\n# no\n```\n',
        encoding="utf-8",
    )
    assert links(page) == [("y.md", "a-b"), ("p.png", ""), ("i.png", "")]
    assert slugs(page) == {"a-b-c-d"}
