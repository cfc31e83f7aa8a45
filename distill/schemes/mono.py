"""Distillation from one teacher."""

from __future__ import annotations

from distill.schemes.amtkd import Amtkd


class MonoTeacher(Amtkd):
    """One teacher, the study's `mono_teacher` or the best at home (AMTKD, Eq. 6)."""

    law = None
