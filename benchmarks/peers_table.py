"""What ``benchmarks/peers.py`` found, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def table(folder: Path) -> str:
    """All results of a folder as Markdown: a row a model, then a row a subject.

    Ratios are against ONNX Runtime in float32.
    """
    found = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
        if not path.name.endswith(".record.json")
    ]
    lines = [
        "# Side by side",
        "",
        "| model | hasten, times ONNX Runtime fp32 | its loss of quality | fastest peer within 1 % "
        "| its ratio | times eager PyTorch | search |",
        "|---|---|---|---|---|---|---|",
        *(_summary(one) for one in found),
        "",
        "| model | subject | quality | drop (95 % interval) | latency ms (95 % interval) "
        "| times ONNX Runtime fp32 | size MB | made in s |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(one["model"], row) for one in found for row in one["rows"]),
    ]
    return "\n".join(lines) + "\n"


def _summary(found: dict[str, Any]) -> str:
    rows = {row["name"]: row for row in found["rows"] if "error" not in row}
    ours, eager = rows["hasten"], rows.get("PyTorch eager")
    peers = [
        row
        for name, row in rows.items()
        if not name.startswith("hasten")
        and name != "ONNX Runtime fp32"
        and row["quality"]["budget"] != "missed"
    ]
    best = max(peers, key=lambda row: row["speedup"]["median"])
    quality = ours["quality"]
    times = f"{eager['latency_ms']['median'] / ours['latency_ms']['median']:.1f}" if eager else "not measured"
    return (
        f"| {found['model']} | {_ratio(ours)} | {quality['drop']:+.4f} of {quality['metric']} "
        f"{quality['reference']:.4f} (n = {quality['n']}) | {best['name']} | {_ratio(best)} | {times} "
        f"| {found['search_seconds']:.0f} s |"
    )


def _seconds(found: float | None) -> str:
    return "" if found is None else f"{found:.0f}"


def _ratio(row: dict[str, Any]) -> str:
    ratio = row["speedup"]
    return f"{ratio['median']:.2f} ({ratio['ci95'][0]:.2f} to {ratio['ci95'][1]:.2f})"


def _line(model: str, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {model} | {row['name']} | failed: {row['error']} | | | | | |"
    quality, time_ms = row["quality"], row["latency_ms"]
    return (
        f"| {model} | {row['name']} | {quality['metric']} {quality['value']:.4f} (n = {quality['n']}) "
        f"| {quality['drop']:+.4f} ({quality['ci95'][0]:+.4f} to {quality['ci95'][1]:+.4f}) "
        f"| {time_ms['median']:.3f} ({time_ms['ci95'][0]:.3f} to {time_ms['ci95'][1]:.3f}) | {_ratio(row)} "
        f"| {row['size_bytes'] / 1e6:.2f} | {_seconds(row.get('build_seconds'))} |"
    )
