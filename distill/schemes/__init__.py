"""Training schemes, one paper a file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from imaging.errors import InputError
from imaging.preprocess import Preprocess
from study.plan import Distill, unknown

if TYPE_CHECKING:
    from torch import nn

    from distill.schemes.base import Scheme

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
}
"""Id -> module and class; loaded when asked for, since they import torch."""


def names() -> list[str]:
    """Ids of all schemes, the plainest first."""
    return list(SCHEMES)


def check(name: str) -> None:
    """InputError with the nearest id unless a scheme is called so."""
    if name not in SCHEMES:
        raise InputError(unknown("scheme", name, names()), fix="`preceptor schemes` tells what each does")


def check_shape(name: str, preprocess: Preprocess) -> None:
    """InputError where the study has patches of volumes, and the scheme of that id takes slices only."""
    if preprocess.patch and not scheme_class(name).volumes:
        fix = "leave it out; `preceptor schemes --json` tells which take patches"
        raise InputError(f"scheme `{name}` is for slices, and the study has patches of volumes", fix=fix)


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
