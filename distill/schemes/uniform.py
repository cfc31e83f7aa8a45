"""Distillation from all teachers alike."""

from __future__ import annotations

from distill.schemes.amtkd import Amtkd


class Uniform(Amtkd):
    """All teachers with equal weights on every slice: AMTKD without what makes it adaptive."""

    law = "uniform"
