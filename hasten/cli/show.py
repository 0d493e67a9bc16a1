"""Results as tables for a person, or as JSON for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from hasten.core.errors import TrialError
    from hasten.core.record import DataInfo, RunRecord, Scorecard
    from hasten.methods import Change
    from hasten.report.explain import Explanation, KernelLine
    from hasten.search.inspect import Inspection
    from hasten.search.request import Event
    from hasten.search.verify import Check
    from hasten.targets import Entry

_MOST_LAYERS = 20


def _console() -> Console:
    """Standard output, on which nothing in a name means anything: ``net[int8].onnx`` is no style."""
    return Console(highlight=False, markup=False, emoji=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "default", overflow="fold")
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(_printable(str(cell)) for cell in cells))


def _printable(text: str) -> str:
    """Names come from model files: control characters must not reach the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def note(event: Event) -> None:
    """What was assumed on the way, on standard error: beside the answer, not in it."""
    typer.echo(_printable(f"note: {event.what}"), err=True)


def notes(data: DataInfo) -> None:
    """What was assumed of the data of a run."""
    for info in (data, data.train) if data.train else (data,):
        for text in info.notes:
            typer.echo(_printable(f"note: {info.source}: {text}"), err=True)


def inspection(found: Inspection) -> None:
    """The answer of ``hasten inspect``."""
    console = _console()
    head = _table(f"{_printable(found.source)} ({found.format}, opset {found.opset})", "", "")
    for name, specs in (("input", found.inputs), ("output", found.outputs)):
        for spec in specs:
            _row(head, name, spec)
    _row(head, "parameters", f"{found.parameters:,}")
    if found.nonzero_parameters != found.parameters:
        _row(head, "of them not zero", f"{found.nonzero_parameters:,}")
    _row(head, "multiply-accumulates", "unknown" if found.macs is None else f"{found.macs:,}")
    _row(head, "operators", ", ".join(f"{name} {count}" for name, count in found.operators.items()))
    for note in found.notes:
        _row(head, "note", note)
    console.print(head)
    layers = _table("\nCost per layer", "layer", "operator", "MACs", "share", "parameters", "computes in")
    costly = sorted(found.layers, key=lambda layer: -layer.macs)
    for layer in costly[:_MOST_LAYERS]:
        share = f"{layer.macs / found.macs:.1%}" if found.macs else "-"
        _row(
            layers, layer.name, layer.op_type, f"{layer.macs:,}", share, f"{layer.parameters:,}", layer.dtype
        )
    if len(costly) > _MOST_LAYERS:
        _row(layers, f"and {len(costly) - _MOST_LAYERS} more; --json shows all")
    console.print(layers)
    advice = _table("\nWhat could be done for latency", "candidate", "", "why")
    for entry in found.advice:
        _row(advice, entry.name, "try" if entry.tried else "no", entry.reason)
    console.print(advice)


def change(made: Change, output: Path, *, as_json: bool) -> None:
    """The answer of ``hasten apply``."""
    if as_json:
        _print_json(
            {
                "file": str(output),
                "effective": made.effective,
                "sites": [s.model_dump() for s in made.sites],
                "skipped": [s.model_dump() for s in made.skipped],
                "notes": list(made.notes),
            }
        )
        return
    console = _console()
    table = _table(
        f"{_printable(str(output))}: {len(made.sites)} changed, {len(made.skipped)} left",
        "layer",
        "operator",
        "",
    )
    for site in made.sites:
        _row(table, site.name, site.op_type, site.what)
    for skip in made.skipped:
        _row(table, skip.name, skip.op_type, f"left: {skip.reason}")
    console.print(table)
    for note in made.notes:
        console.print(_printable(note))
    if not made.effective:
        console.print("No effect: the recipe changed nothing in this model.")


def scorecards(names: Sequence[str], cards: Sequence[Scorecard | TrialError], *, as_json: bool) -> None:
    """The answer of ``hasten measure``."""
    from hasten.core.record import Scorecard
    from hasten.report import figures

    if as_json:
        _print_json(
            [
                {"model": name, **card.model_dump(mode="json")}
                if isinstance(card, Scorecard)
                else {"model": name, "error": str(card)}
                for name, card in zip(names, cards, strict=True)
            ]
        )
        return
    table = _table("", "model", "latency", "95 % interval", "against the first", "quality", "size", "memory")
    for name, card in zip(names, cards, strict=True):
        if not isinstance(card, Scorecard):
            _row(table, name, f"failed: {card}", "", "", "", "", "")
            continue
        latency = card.latency_ms
        quality = card.quality
        _row(
            table,
            name,
            figures.latency(latency) if latency else "-",
            figures.latency_interval(latency) if latency else "-",
            figures.speed(card.speedup).sentence if card.speedup else "-",
            f"{quality.metric} {quality.value:.4f} (drop {quality.drop:+.4f}, {quality.ci95[0]:+.4f} to "
            f"{quality.ci95[1]:+.4f}, n = {quality.n})"
            if quality
            else "-",
            figures.size(card.size_bytes) if card.size_bytes else "-",
            figures.size(card.peak_memory_bytes) if card.peak_memory_bytes else "-",
        )
    console = _console()
    console.print(table)
    for card in cards:
        if isinstance(card, Scorecard) and card.latency_ms and card.latency_ms.warning:
            console.print(f"warning: {card.latency_ms.warning}")


def checks(made: Sequence[Check], *, as_json: bool) -> None:
    """The answer of ``hasten verify``."""
    if as_json:
        _print_json([check.model_dump() for check in made])
        return
    table = _table("", "claim", "", "recorded", "found here")
    for check in made:
        holds = {True: "holds", False: "does not hold", None: "not checked"}[check.holds]
        _row(table, check.claim, holds, check.recorded, check.found)
    _console().print(table)


def explanation(record: RunRecord, *, everything: bool, as_json: bool) -> None:
    """The answer of ``hasten explain``."""
    from hasten.report.explain import SHOWN, as_values, explain

    if as_json:
        _print_json(as_values(record))
        return
    made = explain(record)
    limit = None if everything else SHOWN
    console = _console()
    for line in (record.headline, *record.reasons):
        console.print(_printable(line))
    if record.best is None:
        console.print("No layer was changed, so there are none to explain.")
        return
    _errors(made, limit, console)
    _kernels(made, limit, console)
    _flipped(made, console)


def _errors(made: Explanation, limit: int | None, console: Console) -> None:
    if not made.errors:
        console.print(f"\nThe layers that cost quality: none to show, {_printable(made.no_errors)}.")
        return
    title = "\nThe layers that cost quality: signal to noise, the worst first"
    table = _table(title, "layer", "operator", "alone", "with all others", "what was done")
    for error in made.errors[:limit]:
        _row(table, error.name, error.op_type, error.alone, error.together, error.action)
    _rest(table, len(made.errors), limit)
    console.print(table)


def _kernels(made: Explanation, limit: int | None, console: Console) -> None:
    if not made.kernels:
        console.print(f"\nWhat the runtime executes: not known, {_printable(made.no_kernels)}.")
        return
    parts = _printable("; ".join(part.text for part in made.parts))
    _kernel_table(f"\nWhat the runtime executes: {parts}", made.kernels, limit, console)
    for found in made.findings:
        head = f"\n{found.title}: {len(found.lines)} of {len(made.kernels)}, {found.share} of the time"
        _kernel_table(f"{head}\n{found.meaning}", found.lines, limit, console, alike=True)
    if not made.findings:
        console.print("Every layer runs as the recipe meant it, and no conversion stands alone.")


def _kernel_table(
    title: str, lines: Sequence[KernelLine], limit: int | None, console: Console, *, alike: bool = False
) -> None:
    table = _table(title, "layer", "kernel", "share of the time", "computes in", "")
    for line in lines[:limit]:
        said = line.why or ("" if alike else line.title)
        _row(table, line.layer, line.kind or line.op_type, line.share, line.precision, said)
    _rest(table, len(lines), limit)
    console.print(table)


def _rest(table: Table, count: int, limit: int | None) -> None:
    if limit is not None and count > limit:
        _row(table, f"and {count - limit} more; --all shows all", *[""] * (len(table.columns) - 1))


def _flipped(made: Explanation, console: Console) -> None:
    flipped = made.flipped
    if flipped is None:
        console.print(f"\nSamples that changed: none to show, {_printable(made.no_flips)}.")
        return
    console.print(f"\nHeld-out samples that changed, by their number in {flipped.where}, counted from 0")
    for name, numbers in (
        ("right before, wrong now", flipped.lost),
        ("wrong before, right now", flipped.gained),
    ):
        if numbers:
            console.print(f"  {name}: {', '.join(map(str, numbers))}")
    if flipped.more:
        console.print(f"  and {flipped.more} more that the record does not name")


def inventory(entries: Sequence[Entry], *, as_json: bool) -> None:
    """The answer of ``hasten targets``."""
    if as_json:
        _print_json([entry.to_dict() for entry in entries])
        return
    table = _table("", "target", "", "runtime", "computes in")
    for entry in entries:
        if entry.spec is None:
            _row(table, entry.name, "no", entry.reason, entry.remedy)
        else:
            spec = entry.spec
            _row(
                table,
                entry.name,
                "works",
                f"{spec.runtime} {spec.version}",
                ", ".join(sorted(spec.compute_dtypes)),
            )
    _console().print(table)


def methods(name: str | None, *, as_json: bool) -> None:
    """The answer of ``hasten methods``."""
    from rich.markdown import Markdown

    from hasten.methods import card, find, names

    if name is not None:
        text = card(name)
        if as_json:
            _print_json({"name": name, "card": text})
        else:
            _console().print(Markdown(text))
        return
    rows = [(n, find(n).FACTS) for n in names()]
    if as_json:
        _print_json(
            [
                {
                    "name": n,
                    "summary": f.summary,
                    "needs": sorted(f.needs),
                    "yields": sorted(f.yields),
                    "exact": f.exact,
                }
                for n, f in rows
            ]
        )
        return
    table = _table("", "method", "what it does", "needs", "exact")
    for method, facts in rows:
        _row(table, method, facts.summary, ", ".join(sorted(facts.needs)), "yes" if facts.exact else "no")
    _console().print(table)
