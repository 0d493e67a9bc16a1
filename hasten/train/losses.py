"""What is minimized, term by term? One number a sample, so that any split of a batch adds up.

Scores are (samples, decisions, classes), other outputs (samples, ...).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Scale = Literal["logits", "probabilities"]


def logits(scores: Tensor, scale: Scale) -> Tensor:
    """Scores whose softmax is the distribution meant; a logarithm where they are probabilities already."""
    wide = scores.float()
    return wide.clamp_min(torch.finfo(torch.float32).tiny).log() if scale == "probabilities" else wide


def cross_entropy(scores: Tensor, classes: Tensor) -> Tensor:
    """−log softmax(scores) at the label, the mean over a sample's labelled decisions.

    classes: (samples, decisions); negative means not labelled, and a sample without any label is 0.
    """
    known = classes >= 0
    chosen = classes.clamp_min(0).long().unsqueeze(-1)
    each = -functional.log_softmax(scores, dim=-1).gather(-1, chosen).squeeze(-1)
    return (each * known).sum(dim=1) / known.sum(dim=1).clamp_min(1)


def binary_cross_entropy(score: Tensor, yes: Tensor, scale: Scale) -> Tensor:
    """−y log p − (1 − y) log(1 − p), the mean over a sample's labelled decisions (negative: not labelled)."""
    known = yes >= 0
    target = yes.clamp_min(0).float()
    if scale == "probabilities":
        tiny = torch.finfo(torch.float32).eps
        p = score.float().clamp(tiny, 1 - tiny)
        each = -(target * p.log() + (1 - target) * (1 - p).log())
    else:
        each = functional.binary_cross_entropy_with_logits(score.float(), target, reduction="none")
    return (each * known).sum(dim=1) / known.sum(dim=1).clamp_min(1)


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(teacher / T) ‖ softmax(student / T)), the mean over decisions.

    Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2: the factor T²
    keeps the gradient's size, which falls with 1 / T².
    """
    ours = functional.log_softmax(student / temperature, dim=-1)
    theirs = functional.log_softmax(teacher / temperature, dim=-1)
    share = theirs.exp()
    # A class that the teacher rules out (a score of -inf) adds nothing, whatever the student says of it.
    apart = torch.where(share > 0, theirs - ours, 0.0)
    return temperature**2 * (share * apart).sum(dim=-1).mean(dim=1)


def rows(values: Tensor) -> Tensor:
    """A row a sample: (samples, ...) as (samples, numbers), also where a sample is one number."""
    return values.reshape(len(values), -1)


def squared_error(ours: Tensor, theirs: Tensor, signal: float) -> Tensor:
    """Mean squared error over the mean square of the signal; only where the wanted value is finite."""
    wanted = theirs.float()
    finite = torch.isfinite(wanted)
    apart = torch.where(finite, ours.float() - torch.where(finite, wanted, 0.0), 0.0)
    each = rows(apart.square()).sum(dim=1) / rows(finite).sum(dim=1).clamp_min(1)
    return each / signal


def cosine_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 − cosine of the vectors along the last axis, the mean over a sample's vectors."""
    apart = 1 - functional.cosine_similarity(ours.float(), theirs.float(), dim=-1)
    return rows(apart).mean(dim=1)


def relations(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared difference of the cosines between all pairs of samples, one number; (samples, width).

    The relational knowledge of Park, Kim, Lu and Cho 2019, "Relational Knowledge Distillation", with the
    cosine as the relation of a pair.
    """
    pair = [functional.normalize(v.float(), dim=-1) for v in (ours, theirs)]
    student, teacher = (v @ v.T for v in pair)
    return (student - teacher).square().mean()


def attention_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared distance of the maps of attention, each the mean square over channels, of length 1.

    Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", equation 2 with p = 2. Channels are
    axis 1 of feature maps (samples, C, ...), the last axis of tokens (samples, n, C).
    """
    maps = []
    for value in (ours, theirs):
        axis = 1 if value.ndim > 3 else -1
        maps.append(functional.normalize(rows(value.float().square().mean(dim=axis)), dim=1))
    return (maps[0] - maps[1]).square().sum(dim=1)
