"""Rewrites leave parts behind that nothing uses; the method sweeps them away after each."""

from __future__ import annotations

from hasten.graph import Graph
from hasten.rewrites import Findings, Rewrite, remove_unused


def swept(rewrite: Rewrite) -> Rewrite:
    """The rewrite, and then the removal of what it left unused."""

    def apply(graph: Graph) -> Findings:
        findings = rewrite(graph)
        if findings.sites:
            remove_unused.apply(graph)
        return findings

    return apply
