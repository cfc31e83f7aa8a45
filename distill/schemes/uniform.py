"""Distillation from all teachers alike."""

from __future__ import annotations

from distill.schemes.amtkd import Amtkd
from distill.schemes.base import Scheme


class Uniform(Amtkd):
    """All teachers with equal weights on every slice: AMTKD without what makes it adaptive."""

    weights = Scheme.weights
