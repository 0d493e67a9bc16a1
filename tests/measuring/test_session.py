"""The child's side, called in this process."""

import threading
import time

from hasten.core.tensor import TensorSpec
from hasten.measuring import session

TRIES = 10
"""On a busy machine a thread may be kept from its core, or this process woken late: one try must show it."""


def test_a_process_at_rest_goes_on_at_once():
    def waited() -> float:
        began = time.perf_counter()
        session._come_to_rest()
        return time.perf_counter() - began

    assert min(waited() for _ in range(TRIES)) < 0.15


def test_a_round_ends_when_its_threads_stop_waiting_busily():
    def outlasts_a_busy_thread() -> bool:
        ends = time.perf_counter() + 0.1

        def spin():
            while time.perf_counter() < ends:
                pass

        thread = threading.Thread(target=spin)
        thread.start()
        session._come_to_rest()
        came = time.perf_counter()
        thread.join()
        return came >= ends

    assert any(outlasts_a_busy_thread() for _ in range(TRIES))


def test_peak_memory_grows_and_never_falls():
    before = session.peak_memory_bytes()
    block = bytearray(80 << 20)
    block[::4096] = b"x" * len(block[::4096])
    held = session.peak_memory_bytes()
    del block
    assert held >= before
    # The kernel sums the counters of threads lazily: a reading may lag by some hundred kilobytes.
    assert session.peak_memory_bytes() >= held - (1 << 20) > 79 << 20


def test_the_batch_a_model_takes_is_read_from_its_signature(dataset):
    import numpy as np

    data = dataset(x=np.zeros((3, 4), np.float32))
    for shape, batch in (((2, 4), 2), (("n", 4), None), ((None, 4), None), ((4,), 1), (None, None)):
        assert session.fixed_batch((TensorSpec("x", "float32", shape),), data) == batch
