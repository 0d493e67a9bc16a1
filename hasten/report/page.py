"""The page: one HTML file that opens offline, made from the record alone."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from hasten.core.errors import OutputError
from hasten.core.record import RunRecord
from hasten.report import figures
from hasten.report.before_after import before_after
from hasten.report.cards import cards
from hasten.report.claim import claim
from hasten.report.conditions import conditions, drop_allowed, when
from hasten.report.explain import SHOWN, explain
from hasten.report.layers import layers
from hasten.report.plot import plot
from hasten.report.rows import closest, counts, left_in_float, rows

TEMPLATES = Path(__file__).parent / "templates"
STYLES = ("base.css", "figures.css")
SCRIPTS = ("report.js",)

_VERDICTS = {"faster": "Faster", "smaller": "Smaller", "kept": "Original kept"}


def render(record: RunRecord) -> str:
    """The report as one self-contained HTML page; a pure function of the record.

    Everything that comes from the record is escaped, and the page's own policy (CSP level 2, by hash)
    lets a browser run and load nothing but the style and the script that hasten put there. Raises
    RecordError when the record names a trial that it does not hold.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    style, script = _inlined(STYLES), _inlined(SCRIPTS)
    return environment.get_template("report.html").render(
        style=style,
        script=script,
        policy=_policy(style, script),
        **_views(record),
    )


_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")
"""Characters that HTML does not allow in text ("Preprocessing the input stream")."""


def _visible(value: object) -> object:
    """What a template prints, without control characters; escaping is done after it."""
    return value.translate(_CONTROLS) if isinstance(value, str) else value


def _views(record: RunRecord) -> dict[str, object]:
    """Everything the templates name."""
    made = claim(record)
    every = rows(made)
    left, asked = left_in_float(made)
    return {
        "record": record,
        "made": made,
        "badge": _VERDICTS[record.verdict],
        "when": when(record),
        "allowed": drop_allowed(record),
        "cards": cards(made),
        "closest": closest(record, every) if made.kept else (),
        "lines": before_after(made),
        "plot": plot(made, every),
        "rows": every,
        "counts": counts(every),
        "layers": layers(made),
        "explained": explain(record),
        "shown": SHOWN,
        "left": left,
        "asked": asked,
        "conditions": conditions(record),
        "size": figures.size,
        "number": figures.number,
        "tight": figures.tight,
        "plural": figures.plural,
        "duration": figures.duration,
    }


def _inlined(names: tuple[str, ...]) -> str:
    return "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)


def _policy(style: str, script: str) -> str:
    def fingerprint(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")

    return (
        f"default-src 'none'; style-src 'sha256-{fingerprint(style)}'; "
        f"script-src 'sha256-{fingerprint(script)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def write(record: RunRecord, path: Path) -> None:
    """Write the page to ``path``, whole or not at all; raises OutputError and RecordError."""
    page = render(record).encode("utf-8")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(page)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror}; give a folder that exists, is writable and has room"
        ) from error
