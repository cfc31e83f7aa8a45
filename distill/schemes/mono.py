"""Distillation from one teacher."""

from __future__ import annotations

from dataclasses import replace

from distill.schemes.amtkd import Amtkd
from distill.schemes.base import Needs, Scheme


class MonoTeacher(Amtkd):
    """One teacher, the study's `mono_teacher` or the best at home (AMTKD, Eq. 6)."""

    weights = Scheme.weights

    @property
    def needs(self) -> Needs:
        return replace(super().needs, teachers="one")
