"""The pages of the documentation, and the blocks of code in them that run.

Every fenced block of ``bash``, ``python`` or ``yaml`` runs, unless a comment right before it says else:

    <!-- test: skip (why it cannot run here) -->
    <!-- test: slow -->                only with the slow tests; then the whole page is
    <!-- test: status 0, 3 -->         the exit statuses that are right, when not 0
    <!-- file: net.py -->              of any language: written to that file for the blocks below, not run

The blocks of a page run in order in one folder, each in a process of its own, so that every ``python`` block
stands alone. ``examples`` is in that folder. A ``yaml`` block with ``steps`` must be a valid recipe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = frozenset({"bash", "python", "yaml"})

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*).*\n(?P<code>(?:.*\n)*?)(?P=indent)```$", re.MULTILINE
)
_COMMENT = re.compile(r"<!-- *(test|file): *(.*?) *-->\s*")


def pages() -> list[Path]:
    """All pages of prose."""
    folders = (ROOT / "docs", ROOT / "examples", ROOT / "benchmarks")
    return sorted([*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))])


@dataclass(frozen=True)
class Block:
    """One block of code; ``where`` is page and line."""

    where: str
    language: str
    code: str
    skip: bool = False
    slow: bool = False
    statuses: frozenset[int] = frozenset({0})
    file: str | None = None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in a language that runs; raises ValueError for a comment nobody understands."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        where = f"{page.relative_to(ROOT)}:{line}"
        given = _comments(text[: match.start()])
        if match["language"] in LANGUAGES or any(key == "file" for key, _ in given):
            code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            found.append(_block(where, match["language"], code, given))
        elif given:
            raise ValueError(
                f"{where}: {match['language'] or 'plain'} blocks do not run, so {given} means nothing"
            )
    return found


def _comments(before: str) -> list[tuple[str, str]]:
    """The comments that stand right before a block, first to last."""
    found: list[tuple[str, str]] = []
    while match := re.search(_COMMENT.pattern + r"\Z", before):
        last = list(_COMMENT.finditer(match[0]))[-1]
        found.insert(0, (last[1], last[2]))
        before = before[: before.rindex(last[0].rstrip())]
    return found


def _block(where: str, language: str, code: str, given: list[tuple[str, str]]) -> Block:
    changes: dict[str, object] = {}
    for key, text in given:
        if key == "file":
            changes["file"] = text
        elif text == "slow":
            changes["slow"] = True
        elif re.fullmatch(r"skip \(.+\)", text):
            changes["skip"] = True
        elif re.fullmatch(r"status \d+(, *\d+)*", text):
            changes["statuses"] = frozenset(map(int, re.findall(r"\d+", text)))
        else:
            raise ValueError(f"{where}: {key}: {text!r} means nothing; see tests/docs/pages.py")
    return Block(where, language, code, **changes)  # type: ignore[arg-type]


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    made = set()
    for heading in re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE):
        plain = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).strip().lower()
        made.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return made


def links(page: Path) -> list[tuple[str, str]]:
    """Links to other pages and files, with their anchors; links to the web are left out."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    targets = re.findall(
        r"\]\(<?([^)\s>]+)>?(?: +\"[^\"]*\")?\)|<(?:img|a)\b[^>]*(?:src|href)=\"([^\"]+)\"", text
    )
    inside = [a or b for a, b in targets if not re.match(r"[a-z]+:", a or b)]
    return [(path, anchor) for path, _, anchor in (target.partition("#") for target in inside)]
