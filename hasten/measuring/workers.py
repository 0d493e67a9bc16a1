"""A fresh process for a subject, with the threads it may use."""

from __future__ import annotations

from hasten.core.recipe import Json
from hasten.measuring import session
from hasten.measuring.subject import Conditions, Subject
from hasten.process import Worker

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class Lane:
    """A subject in its own process; a context manager that ends it.

    load_ms: how long opening the artifact took. Raises TrialError where the session does.
    """

    def __init__(self, subject: Subject, conditions: Conditions) -> None:
        self.subject = subject
        self._timeout_s = conditions.timeout_s
        threads = subject.artifact.options.get("threads") or conditions.threads
        self._worker = Worker(subject.name, dict.fromkeys(_THREAD_VARIABLES, str(threads)))
        self.load_ms = 0.0

    def open(self, conditions: Conditions) -> None:
        """Open the artifact in the process."""
        self.load_ms = float(
            self.ask(  # type: ignore[arg-type]
                "open_artifact",
                artifact=self.subject.artifact.model_dump(mode="json"),
                folder=str(self.subject.folder.resolve()),
                threads=conditions.threads,
            )
        )

    def ask(self, function: str, **arguments: Json) -> Json:
        """Call a function of ``session`` in the process; raises TrialError or WorkerError."""
        return self._worker.request(f"{session.__name__}:{function}", arguments, self._timeout_s)

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
