"""Small real models and data, exported once a session."""

from __future__ import annotations

import numpy as np
import pytest

from hasten import targets
from hasten.core.data import Selection, StoreWriter
from hasten.measuring import Conditions, Subject

from . import models

CLASSES = 5


@pytest.fixture(scope="session")
def quick():
    """Conditions under which a comparison takes a second."""
    return Conditions(threads=1, rounds_min=3, rounds_max=4, time_limit_s=2.0, timeout_s=60.0)


@pytest.fixture(scope="session")
def subject_of(tmp_path_factory):
    """Export a graph for a target: the Subject."""

    def export(graph, target="onnxruntime", name="subject", **options):
        folder = tmp_path_factory.mktemp(name)
        artifact = targets.find(target).export(graph, folder, targets.options(target, options))
        return Subject(artifact, folder, name)

    return export


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Samples as a role: keyword arguments are fields, lists of arrays without batch axis."""

    def make(**fields):
        writer = StoreWriter(tmp_path_factory.mktemp("store"), list(fields))
        for values in zip(*fields.values(), strict=True):
            writer.append(dict(zip(fields, map(np.asarray, values), strict=True)))
        store = writer.close()
        return Selection(store, range(len(store)))

    return make


@pytest.fixture(scope="session")
def images(dataset):
    """Forty pictures, the labels those that `models.classifier()` gives to most of them."""
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(40, 3, 8, 8)).astype(np.float32)
    labels = np.argmax(models.run(models.classifier(), image=pictures)["logits"], axis=1)
    labels[:8] = (labels[:8] + 1) % CLASSES
    return dataset(image=pictures, labels=labels)


@pytest.fixture(scope="session")
def original(subject_of):
    return subject_of(models.classifier(), name="original")
