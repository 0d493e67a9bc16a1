"""A recipe: which methods, with which hyper-parameters, in which order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shortened

from typing_extensions import TypeAliasType

from hasten.core.errors import RecipeError

_MOST_VALUES = 100_000
_DEEPEST = 20

_YAML_FAULTS = (ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises besides its own errors: for ``!!bool x``, ``!!timestamp x``, huge integers …"""

Json = TypeAliasType("Json", "bool | int | float | str | list[Json] | dict[str, Json] | None")


@dataclass(frozen=True)
class Step:
    """One method and its hyper-parameters, as plain JSON values.

    The values are validated by the method's own dataclass when the step is applied (or by
    ``hasten.methods.validate``); this record knows nothing of methods.
    """

    method: str
    params: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: object, where: str) -> Step:
        """Read ``{method: {parameter: value}}`` or a bare name; raises RecipeError naming ``where``."""
        if isinstance(raw, Step):
            return raw
        if isinstance(raw, str):
            return cls(raw, {})
        if not isinstance(raw, Mapping) or len(raw) != 1:
            raise RecipeError(f"{where} must be one 'method: {{parameters}}', not {shortened(raw)}")
        [(method, params)] = raw.items()
        if params is None:
            params = {}
        if not isinstance(method, str) or not isinstance(params, Mapping):
            raise RecipeError(
                f"{where}.{method} must hold parameters as 'name: value', not {shortened(params)}"
            )
        _check_json(params, f"{where}.{method}")
        return cls(method, {str(k): v for k, v in params.items()})


def _check_json(value: object, where: str) -> None:
    """Raise RecipeError for a value that JSON has no form for; YAML has dates, bytes, sets, and loops."""
    waiting: list[tuple[object, int]] = [(value, 0)]
    count = 0
    while waiting:
        held, depth = waiting.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST_VALUES:
            raise RecipeError(f"{where} is nested too deeply or too long for parameters")
        if isinstance(held, Mapping):
            waiting.extend((inner, depth + 1) for pair in held.items() for inner in pair)
        elif isinstance(held, list | tuple):
            waiting.extend((inner, depth + 1) for inner in held)
        elif held is not None and not isinstance(held, bool | int | float | str):
            raise RecipeError(f"{where} holds {shortened(held)}, a {type(held).__name__}; write plain values")


@dataclass(frozen=True)
class Recipe:
    """An ordered list of steps; the empty recipe is the baseline."""

    steps: tuple[Step, ...] = ()

    def __init__(self, steps: Iterable[object] = ()) -> None:
        parsed = tuple(Step.parse(raw, f"steps[{i}]") for i, raw in enumerate(steps))
        object.__setattr__(self, "steps", parsed)

    @classmethod
    def parse(cls, raw: object) -> Recipe:
        """Read the dictionary form ``{"steps": [...]}``; raises RecipeError with the path of the key."""
        if isinstance(raw, Recipe):
            return raw
        if not isinstance(raw, Mapping):
            raise RecipeError(f"a recipe is a mapping with the key 'steps', not {type(raw).__name__}")
        unknown = set(raw) - {"steps"}
        if unknown:
            raise RecipeError(
                f"unknown key {sorted(map(str, unknown))[0]!r}: a recipe has only the key 'steps'"
            )
        steps = raw.get("steps", [])
        if not isinstance(steps, list | tuple):
            raise RecipeError(f"steps must be a list, not {type(steps).__name__}")
        return cls(steps)

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a YAML or JSON file (JSON is YAML); raises RecipeError."""
        import yaml

        try:
            text = Path(path).read_text(encoding="utf-8")
            raw = yaml.safe_load(text)
        except OSError as error:
            raise RecipeError(f"recipe {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} is not YAML: {error}") from error
        except _YAML_FAULTS as error:
            raise RecipeError(
                f"recipe {path} holds a value that cannot be read: {type(error).__name__}: {error}"
            ) from error
        try:
            return cls.parse(raw)
        except RecipeError as error:
            raise RecipeError(f"recipe {path}: {error}") from error

    def to_dict(self) -> dict[str, Json]:
        """The dictionary form, which ``parse`` reads back."""
        return {"steps": [{s.method: dict(s.params)} for s in self.steps]}

    def to_yaml(self) -> str:
        """The YAML form, which ``read`` reads back."""
        import yaml

        # Through JSON nothing is shared: what two steps hold would become an anchor and an alias.
        return str(yaml.safe_dump(json.loads(json.dumps(self.to_dict())), sort_keys=False))

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return " + ".join(s.method for s in self.steps) or "original"
