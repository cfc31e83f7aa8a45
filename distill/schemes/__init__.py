"""Training schemes, one paper a file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import models
from imaging.errors import InputError
from imaging.preprocess import Preprocess
from study.plan import Distill, Student, Study, unknown

if TYPE_CHECKING:
    from torch import nn

    from distill.schemes.base import Scheme

PROBE = "probe"
"""The scheme that learns nothing without a student to begin with."""
SCHEMES = {
    "supervised": "distill.schemes.supervised:Supervised",
    "mono-teacher": "distill.schemes.mono:MonoTeacher",
    "uniform": "distill.schemes.uniform:Uniform",
    "amtkd": "distill.schemes.amtkd:Amtkd",
    "kd": "distill.schemes.kd:Kd",
    "at": "distill.schemes.at:At",
    "skd": "distill.schemes.skd:Skd",
    "emkd": "distill.schemes.emkd:Emkd",
    "cirkd": "distill.schemes.cirkd:Cirkd",
    "protokd": "distill.schemes.protokd:ProtoKd",
    "amtml-kd": "distill.schemes.amtml:AmtmlKd",
    "ca-mkd": "distill.schemes.ca_mkd:CaMkd",
    "consensus": "distill.schemes.consensus:Consensus",
    "dsd": "distill.schemes.alone:Dsd",
    "missu": "distill.schemes.alone:Missu",
    "mod": "distill.schemes.alone:Mod",
    PROBE: "distill.schemes.alone:Probe",
}
"""Id -> module and class; loaded when asked for, since they import torch."""


def names() -> list[str]:
    """Ids of all schemes, the plainest first."""
    return list(SCHEMES)


def check(name: str) -> None:
    """InputError with the nearest id unless a scheme is called so."""
    if name not in SCHEMES:
        raise InputError(unknown("scheme", name, names()), fix="`preceptor schemes` tells what each does")


def check_fits(name: str, student: Student, preprocess: Preprocess, plan: Distill) -> None:
    """InputError where the scheme of that id cannot train that student: on patches, for want of a U or a start."""
    why = _misfit(name, student, preprocess)
    if why:
        raise InputError(f"scheme `{name}` {why}", fix="leave it out, or change the study's student or patch")
    stages = models.spec(student.model).build_with(student.options).stages
    if name == "mod" and plan.mod.stage is not None and plan.mod.stage not in stages:
        fix = f"`{student.model}` has {', '.join(stages)}" if stages else "leave it out: this network has no U"
        raise InputError(f"`mod.stage` is `{plan.mod.stage}`, which is no stage of the network", fix=fix)
    if name == PROBE and plan.start is None:
        fix = f'name it, such as by `--set start=mod`, or in a variant: `{{ scheme = "{PROBE}", start = "mod" }}`'
        raise InputError(f"`{name}` judges the features of a student that is trained, and none is named", fix=fix)


def fitting(study: Study) -> list[str]:
    """Ids of the schemes that can train the study's student from the beginning."""
    return [name for name in names() if name != PROBE and not _misfit(name, study.student, study.preprocess)]


def _misfit(name: str, student: Student, preprocess: Preprocess) -> str:
    """Why it cannot; "" where it can."""
    if preprocess.patch and not scheme_class(name).volumes:
        return "is for slices, and the study has patches of volumes"
    build = models.spec(student.model).build_with(student.options)
    if name in ("dsd", "missu") and not build.stages:
        return f"attaches to a U, and `{student.model}` has none"
    if name == "mod" and not build.bottom:
        return f"matches tokens of a network's deepest features, which `{student.model}` does not state"
    return ""


def scheme_class(name: str) -> type[Scheme]:
    """The class of that id; InputError if there is none."""
    check(name)
    module, _, title = SCHEMES[name].partition(":")
    found: type[Scheme] = getattr(import_module(module), title)
    return found


def create(
    name: str, student: nn.Module, plan: Distill, classes: int, unions: tuple[tuple[int, ...], ...] = ()
) -> Scheme:
    """The scheme of that id around a student, under `[distill]` of study.toml; `unions` are `task.regions`."""
    scheme = scheme_class(name)(student, plan, classes)
    scheme.unions = unions
    return scheme
