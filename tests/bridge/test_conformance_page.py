"""The page of operators is that of the table."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows():
    lines = (ROOT / "docs" / "bridge.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if len(row) == 4 and not set(row[0]) <= {"-"} and row[0] != "domain"]


def test_page_lists_every_operator_and_what_its_gradient_is():
    """Run scripts/write_conformance.py when this fails."""
    script = runpy.run_path(str(ROOT / "scripts" / "write_conformance.py"), run_name="conformance")
    wanted = [
        [domain or "ai.onnx", name, script["gradient"](domain, name)]
        for domain, name in script["operators"]()
    ]
    assert [[domain, name, gradient] for domain, name, _, gradient in rows()] == wanted


def test_every_operator_passes_all_its_tests():
    counts = [row[2].split(" of ") for row in rows() if " of " in row[2]]
    assert len(counts) >= 150
    assert all(passed == tried for passed, tried in counts)
