"""Kernels read in a process of their own."""

import pytest

from hasten import measuring
from hasten.core.budget import Budget
from hasten.core.errors import TrialError
from hasten.core.layers import Kernel
from hasten.measuring.kernels import _least

from . import models


def kernel(name, time_us):
    return Kernel(name=name, op_type="Conv", kind="k", precision="float32", layers=(), time_us=time_us)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_kernels_come_from_a_process_of_their_own_and_are_kept(subject_of, images, quick, target, tmp_path):
    subject = subject_of(models.classifier(), target)
    (found,) = measuring.kernels([subject], images, quick, tmp_path)
    assert {"float32"} <= {kernel.precision for kernel in found}
    assert sum(kernel.time_us or 0.0 for kernel in found) > 0
    # What is kept is not taken again, even where it says that there is nothing.
    [kept] = tmp_path.glob("*.json")
    kept.write_text("[[]]")
    assert measuring.kernels([subject], images, quick, tmp_path) == [()]
    other = subject_of(models.classifier(noise=0.5), target)
    assert measuring.kernels([other], images, quick, tmp_path) != [()]


def test_kernels_of_several_subjects_are_each_its_own(subject_of, images, quick, tmp_path):
    subjects = [subject_of(models.classifier(depth=depth)) for depth in (1, 3)]
    alone = [measuring.kernels([subject], images, quick, tmp_path)[0] for subject in subjects]
    together = measuring.kernels(subjects, images, quick, tmp_path)
    ops = [[kernel.op_type for kernel in found] for found in together]
    assert ops == [[kernel.op_type for kernel in found] for found in alone]
    assert ops[0] != ops[1]
    # What is kept of both is not what is kept of one, nor of both the other way round.
    assert len(list(tmp_path.glob("*.json"))) == 3
    assert measuring.kernels(subjects[::-1], images, quick, tmp_path) != together


def test_a_broken_artifact_is_a_trial_error(subject_of, images, quick, tmp_path):
    subject = subject_of(models.classifier())
    (tmp_path / subject.artifact.entry).write_bytes(b"no model")
    broken = measuring.Subject(subject.artifact, tmp_path, "broken")
    with pytest.raises(TrialError):
        measuring.kernels([subject, broken], images, quick, tmp_path / "kept")


def test_flipped_samples_are_named_by_their_numbers(subject_of, images, quick, tmp_path):
    original, noisy = subject_of(models.classifier()), subject_of(models.classifier(noise=0.5))
    before, after = (measuring.predict(s, images, quick, tmp_path) for s in (original, noisy))
    metric = measuring.resolve("accuracy", images, before)
    lost, gained = measuring.flipped(metric, before, after, images)
    flips = measuring.judge(metric, before, after, images, Budget()).flips
    assert flips is not None
    assert (len(lost), len(gained)) == (flips.lost, flips.gained)
    assert lost
    assert set(lost) | set(gained) <= set(images.indices)
    assert measuring.flipped(metric, before, before, images) == ((), ())


def test_of_each_kernel_the_turn_counts_in_which_it_took_least():
    first = (kernel("a", 3.0), kernel("b", 5.0), kernel("c", None))
    second = (kernel("a", 4.0), kernel("b", 2.0), kernel("c", None))
    assert _least([first, second]) == (first[0], second[1], first[2])


def test_where_other_kernels_ran_the_turn_that_took_least_counts():
    first, second = (kernel("a", 3.0), kernel("b", 5.0)), (kernel("a", 4.0),)
    assert _least([first, second]) == second
