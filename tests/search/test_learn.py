"""Training is proposed only with the means, the samples and the time for it."""

from __future__ import annotations

import pytest

from hasten import train
from hasten.core.errors import Unavailable
from hasten.core.recipe import Step
from hasten.search import learn


def test_epochs_fill_the_time_there_is() -> None:
    little = learn.quantize_aware(samples=1000, inference_ms=5.0, seconds_left=300.0)
    much = learn.quantize_aware(samples=1000, inference_ms=5.0, seconds_left=1e5)
    assert little is not None
    assert much is not None
    # 1000 samples at 34 inferences of 5 ms are 170 s an epoch, and 0.6 of the time is given
    assert little.params["epochs"] == 1.1
    assert much.params["epochs"] == 8.0


@pytest.mark.parametrize(
    ("samples", "seconds"), [(100, 1e5), (1000, 10.0)], ids=["too few samples", "too little time"]
)
def test_where_it_would_not_pay_nothing_is_proposed(samples: int, seconds: float) -> None:
    assert learn.quantize_aware(samples=samples, inference_ms=5.0, seconds_left=seconds) is None


def test_blocks_are_mended_where_there_is_time_for_all_of_them() -> None:
    # 400 samples at 34 inferences of 5 ms are 68 s, and 0.6 of the time is given
    assert learn.reconstruct(samples=100, inference_ms=5.0, seconds_left=120.0) == Step("reconstruct")
    assert learn.reconstruct(samples=100, inference_ms=5.0, seconds_left=100.0) is None
    assert learn.reconstruct(samples=20, inference_ms=5.0, seconds_left=1e5) is None


def test_without_the_means_nothing_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"PyTorch, accelerate.*pip install 'hasten\[train\]'"):
        train.require()
    assert learn.quantize_aware(samples=1000, inference_ms=5.0, seconds_left=1e5) is None
    assert learn.reconstruct(samples=1000, inference_ms=5.0, seconds_left=1e5) is None
