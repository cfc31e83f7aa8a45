"""Kullback-Leibler divergence of softened class probabilities, both ways round."""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURE = 4.0
"""lambda of Eq. 1; the paper gives none, EMKD's code and Zagoruyko's say 4."""


def soften(logits: Tensor, temperature: float = TEMPERATURE, *, dim: int = 1) -> Tensor:
    """Class probabilities at a temperature, softmax(z / lambda) over `dim`. Source: AMTKD, Eq. 1."""
    return (logits / temperature).softmax(dim)


def teacher_first_kl(student: Tensor, teacher: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """lambda² KL(teacher || student), mean over pixels: the student is drawn to all that the teacher holds possible.

    Shapes: student (N, C, H, W) logits; teacher (N, C, H, W) probabilities already softened, one teacher's or a
    mixture's; returns (N,). Source: AMTKD, Eq. 2; Hinton et al. 2015.
    Departs: Eq. 2 puts the student first and has no lambda². Teacher first is what Hinton and the public codes do, and
    lambda² keeps the gradient's size whatever the temperature.
    """
    divergence = teacher * (_log(teacher) - (student / temperature).log_softmax(1))
    return temperature**2 * divergence.sum(1).flatten(1).mean(1)


def student_first_kl(student: Tensor, teacher: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """lambda² KL(student || teacher), mean over pixels: the direction that Eq. 2 prints.

    Shapes as in `teacher_first_kl`. Departs: lambda² is not printed; it makes the two directions comparable.
    """
    logs = (student / temperature).log_softmax(1)
    return temperature**2 * (logs.exp() * (logs - _log(teacher))).sum(1).flatten(1).mean(1)


KL = {"teacher-first": teacher_first_kl, "student-first": student_first_kl}
"""By the direction that `[distill.amtkd] kl` names."""


def _log(probs: Tensor) -> Tensor:
    """Logarithm that stays finite where a probability underflowed to 0."""
    return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
