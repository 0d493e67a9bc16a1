"""Write ``docs/bridge.md``: what the bridge knows, and what its tests say of each operator.

python scripts/write_conformance.py     runs the node tests of the onnx package and writes the page
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

import onnx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import hasten.bridge.program  # noqa: E402, F401 - compiling fills the table
from hasten.bridge.operator import TABLE  # noqa: E402
from hasten.core.errors import HastenError  # noqa: E402
from tests.bridge.gradients import NOT_DIFFERENTIABLE  # noqa: E402
from tests.bridge.node_tests import NodeTest, all_node_tests, run  # noqa: E402

PAGE = ROOT / "docs" / "bridge.md"
FAULTS = (AssertionError, HastenError, RuntimeError, TypeError, ValueError, IndexError, KeyError)
"""What a failing test may raise; anything else is a fault of this script."""

HEAD = """\
# The bridge: operators

`graph.to_torch()` turns an ONNX graph into a `torch.nn.Module`. This page lists the operators it knows, of
operator sets 9 to {opset}; a graph with any other is refused, naming the nodes. It is written by
`scripts/write_conformance.py`.

*Node tests* are those that ship with the onnx package ({version}); a test counts for the operator it is
named after and is compared as that package's own runner does: shape, element type and values. In all,
{passed} of the {total} tests in scope pass, those of expanded function bodies included; {out} are not in
scope.

*Gradient* `checked` means that `torch.autograd.gradcheck` compared the operator's gradients with finite
differences in float64, on one or two of those tests or on a small graph written for it. Where it says why
not, the operator has no derivative to check. ONNX Runtime's own operators (`com.microsoft`) have no node
tests; they are compared with ONNX Runtime.
"""


def operators() -> list[tuple[str, str]]:
    """(domain, operator) of every row of the table, in the page's order."""
    return sorted(TABLE)


def gradient(domain: str, name: str) -> str:
    """What is known of an operator's gradient."""
    full = f"{domain}.{name}" if domain else name
    return NOT_DIFFERENTIABLE.get(full, "checked")


def subject(test: NodeTest) -> str:
    """The operator a test counts for: the only one, or the one whose function body it holds."""
    names = test.operators
    if len(names) == 1 and "_expanded" not in test.name:
        return next(iter(names))
    return ""


def page() -> str:
    """Run the tests and return the page."""
    passed, tried, outside = Counter[str](), Counter[str](), Counter[str]()
    excused: Counter[str] = Counter()
    everything = all_node_tests().values()
    for test in everything:
        reason = test.out_of_scope
        if reason is not None:
            outside[subject(test)] += 1
            excused[reason] += 1
            continue
        tried[subject(test)] += 1
        passed[subject(test)] += _passes(test)
    head = HEAD.format(
        opset=onnx.defs.onnx_opset_version(),
        version=onnx.__version__,
        passed=sum(passed.values()),
        total=sum(tried.values()),
        out=sum(outside.values()),
    )
    rows = []
    for domain, name in operators():
        full = f"{domain}.{name}" if domain else name
        tests = f"{passed[full]} of {tried[full]}" if tried[full] else "none in scope"
        rows.append(f"| {domain or 'ai.onnx'} | {name} | {tests} | {gradient(domain, name)} |")
    reasons = [f"| {count} | {reason} |" for reason, count in excused.most_common()]
    return "\n".join(
        [
            head,
            "| domain | operator | node tests passed | gradient |",
            "|---|---|---|---|",
            *rows,
            "",
            "Out of scope:",
            "",
            "| tests | reason |",
            "|---|---|",
            *reasons,
            "",
        ]
    )


def _passes(test: NodeTest) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(test)
    except FAULTS as fault:
        said = " ".join(str(fault).split())[:200]
        print(f"{test.name}: {type(fault).__name__}: {said}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
