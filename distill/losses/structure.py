"""How the places of a feature map are related to each other and to regions, compared between networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.knowledge import enlarged


def pairwise_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two affinities (N, m, m), (N,). Source: SKD (Liu et al. 2019), pair-wise."""
    return (student - teacher).square().mean((1, 2))


def prototype_distance(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """Mean squared difference of prototype maps over places and the classes present, (N,); 0 where none is.

    Shapes: student (N, C, h, w), resized bilinearly to the teacher's (N, C, h', w'); present (N, C) bool, in both.
    Source: ProtoKD (Wang et al. 2023).
    """
    student = enlarged(student, teacher.shape[2:])
    each = (student - teacher).square().flatten(2).mean(2).where(present, 0.0)
    return each.sum(1) / present.sum(1).clamp_min(1)


def cross_image_distance(
    student: Tensor, teacher: Tensor, answered: Tensor | None = None, *, temperature: float = 0.1
) -> Tensor:
    """How differently each image's pixels are related to those of every image of the batch, (N,).

    S_ij = F_i F_j^T of unit features, for all images i and j; of each row the KL of the student's softmax to the
    teacher's, at `temperature`; mean over rows and j, of the images j that the teacher `answered` (N,) bool. Shapes:
    student (N, c, h, w), teacher (N, c', h, w).
    Source: CIRKD (Yang et al. 2022), mini-batch pixels; its (1/N²) sum over i and j is the mean of what is returned.
    """
    each = relation_kl(_relations(student), _relations(teacher), temperature=temperature).mean(2)  # (N, N)
    partners = torch.ones(len(each), dtype=torch.bool, device=each.device) if answered is None else answered
    return each.where(partners, 0.0).sum(1) / partners.sum().clamp_min(1)


def _relations(features: Tensor) -> Tensor:
    """Cosines (N, N, M, M) of each image's M pixels with each image's."""
    units = F.normalize(features.flatten(2), dim=1)
    return (units.transpose(1, 2)[:, None] @ units[None]).contiguous()


def relation_kl(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of softmax(relations / temperature) over the last axis, which goes."""
    log_student, log_teacher = (one.div(temperature).log_softmax(-1) for one in (student, teacher))
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
