"""The bar says how far it is, and is silent where nobody looks."""

from __future__ import annotations

import io

from rich.console import Console

from hasten.train import Event
from hasten.train.history import EvaluationRow
from hasten.train.progress import Bar


def shown(terminal: bool) -> str:
    stream = io.StringIO()
    with Bar(Console(file=stream, force_terminal=terminal, width=160)) as bar:
        bar(Event(step=0, steps=400, evaluation=EvaluationRow(0, 2.5, 0.25), metric="accuracy"))
        bar(Event(step=100, steps=400, loss=1.25, learning_rate=0.1, seconds_left=185.2))
    return stream.getvalue()


def test_steps_loss_metric_and_time_left_are_shown():
    text = shown(terminal=True)
    assert "100/400" in text
    assert "loss 1.25; held back: loss 2.5, accuracy 0.2500; 3 min 5 s left" in text


def test_nothing_is_shown_without_a_terminal():
    assert shown(terminal=False).strip() == ""
