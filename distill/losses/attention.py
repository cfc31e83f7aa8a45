"""Attention transfer: where a network looks, whatever the number of its channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.knowledge import averaged, enlarged


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 distance of two attention maps, each scaled to unit L2 norm: 0 where they agree, whatever their gain.

    Shapes: student (N, h, w); teacher (N, h', w'), resized bilinearly to (h, w); returns (N,). It grows with sqrt(h w).
    Source: AMTKD, Eq. 3. Departs: Eq. 3 as printed norms the difference, so it cannot tell near from far and its
    gradient never pulls the maps together; we norm each map, as its [34], Zagoruyko and Komodakis 2017.
    """
    teacher = enlarged(teacher[:, None], student.shape[1:])[:, 0]
    return (unit(student) - unit(teacher)).abs().flatten(1).sum(1)


def attention_printed(student: Tensor, teacher: Tensor) -> Tensor:
    """|| (A^s - A^t) / ||A^s - A^t||_2 ||_1, (N,), 0 where the maps are equal: AMTKD's Eq. 3 to the letter.

    Shapes as above. The difference is normed, so it says nothing of how far the maps are from each other.
    """
    teacher = enlarged(teacher[:, None], student.shape[1:])[:, 0]
    return unit(student - teacher).abs().flatten(1).sum(1)


def attention_square(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two attention maps of unit L2 norm, (N,).

    Shapes: student (N, h, w), teacher (N, h', w'); the larger is averaged down to the smaller. Source: Zagoruyko and
    Komodakis 2017, in the form of their code: a mean over places of the square; `at.weight` is theirs for this form.
    """
    return _between_units(student, teacher).square().flatten(1).mean(1)


def attention_norm(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the L2 norm of the same difference, (N,): the form that Zagoruyko and Komodakis 2017 print."""
    norms: Tensor = torch.linalg.vector_norm(_between_units(student, teacher).flatten(1), dim=1)
    return norms / 2


def _between_units(student: Tensor, teacher: Tensor) -> Tensor:
    sides = [min(one, other) for one, other in zip(student.shape[1:], teacher.shape[1:], strict=True)]
    return unit(averaged(student[:, None], sides)[:, 0]) - unit(averaged(teacher[:, None], sides)[:, 0])


def importance_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over places of the squared difference of two attention maps of unit L2 norm, (N,).

    Shapes: student (N, h, w), resized bilinearly to the teacher's (N, h', w'). Source: EMKD (Qin et al. 2021),
    importance maps, with p = 4.
    """
    student = enlarged(student[:, None], teacher.shape[1:])[:, 0]
    return (unit(student) - unit(teacher)).square().flatten(1).sum(1)


def unit(maps: Tensor) -> Tensor:
    """Each map (N, h, w) scaled to unit L2 norm; a map of zeros stays zero."""
    return F.normalize(maps.flatten(1), dim=1).view_as(maps)
