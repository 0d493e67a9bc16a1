"""Everything hasten raises on purpose.

    HastenError
    ├── InputError               what the user gave cannot be used            exit status 2
    │   ├── ModelError           a model file or module cannot be loaded
    │   ├── DataError            data do not fit the model, or cannot be read
    │   ├── RecipeError          a recipe has an unknown key, a wrong type, a value out of range
    │   ├── OutputError          the output folder exists, is not writable, the disk is full
    │   ├── RecordError          a hasten.json cannot be read
    │   └── Unavailable          an optional dependency is missing
    └── TrialError               one candidate failed; the run goes on
        ├── MethodError          a method could not be applied to this graph
        ├── TrainingError        a training diverged, or its processes do not train together
        └── WorkerError          a runtime crashed, hung or ran out of memory in its own process

Every message says what is wrong, where, and how to mend it, on one line.
"""

from __future__ import annotations

_LONGEST_MESSAGE = 1200
_LONGEST_QUOTE = 300


def one_line(message: str, longest: int = _LONGEST_QUOTE) -> str:
    """A message from elsewhere on one line, without control characters, cut to ``longest`` characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


class HastenError(Exception):
    """Base of all errors hasten raises on purpose.

    Parts of a message come from files: whatever they hold, the message is one line of printable characters,
    so that it can be shown on a terminal.
    """

    def __str__(self) -> str:
        return one_line(super().__str__(), _LONGEST_MESSAGE)


class InputError(HastenError):
    """What the user gave cannot be used; the message says what, where and how to mend it."""


class ModelError(InputError):
    """A model cannot be loaded, or is not a valid model."""


class DataError(InputError):
    """Data cannot be read, or do not fit the model's inputs."""


class RecipeError(InputError):
    """A recipe is malformed; the message carries the path of the key."""


class OutputError(InputError):
    """The output cannot be written where the user asked for it."""


class RecordError(InputError):
    """A run record is missing, malformed, or of another schema version."""


class Unavailable(InputError):  # noqa: N818 - reads as a state: "unavailable: openvino"
    """An optional dependency is missing.

    ``reason`` says what is missing, ``remedy`` how to install it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


class TrialError(HastenError):
    """One candidate failed; recorded as a failed trial, the run goes on."""


class MethodError(TrialError):
    """A method cannot be applied to this graph."""


class TrainingError(TrialError):
    """A training diverged, or its processes do not train together."""


class WorkerError(TrialError):
    """A child process crashed, hung or was killed; the message says which and while doing what."""
