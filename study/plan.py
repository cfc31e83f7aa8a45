"""study.toml whole: read, checked, and explained key by key."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationError, model_validator

import models
from imaging.augment_plan import Augment
from imaging.errors import InputError
from imaging.preprocess import Preprocess
from models.sizes import fits, nearest
from study.averaging_table import TAKEN, Averaging
from study.distill_tables import Amtkd, Distill
from study.keys import Row, faults, rows
from study.networks import build
from study.table import Plan
from study.tables import (
    NAME,
    Asked,
    Encoding,
    Federation,
    FolderSource,
    Name,
    Options,
    PhantomSource,
    Site,
    Source,
    Student,
    Task,
    Teacher,
    check_options,
    known,
    unknown,
)

if TYPE_CHECKING:
    from imaging.phantom_profiles import Profile

__all__ = [
    "NAME", "Amtkd", "Asked", "Augment", "Averaging", "Distill", "Encoding", "Federation", "FolderSource", "Name",
    "Options", "PhantomSource", "Plan", "Preprocess", "Site", "Source", "Student", "Study", "Task", "Teacher",
    "check_networks", "check_rooms", "checked", "faults", "known", "read_study", "reference", "resolve", "unknown",
]  # fmt: skip


class Study(Plan):
    """A whole study.toml."""

    name: Name
    """Names the run directory."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seeds every draw: the same study, seed and machine give the same student, bit for bit."""
    task: Task
    preprocess: Preprocess
    augment: Augment = Augment()
    sites: list[Site] = Field(min_length=1)
    teacher: Teacher = Teacher()
    student: Student
    answers: Asked = Asked()
    distill: Distill = Distill()
    averaging: Averaging = Averaging()
    federation: Federation = Federation()

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [site.name for site in self.sites]
        if len(set(names)) < len(names):
            raise ValueError(f"two sites share a name: {', '.join(names)}")
        for plan in map(self.distill.of, self.distill.students):
            for site in (*([plan.mono_teacher] if plan.mono_teacher else []), *plan.weights.fixed, *plan.without):
                known("site", site, names)
            if not set(names) - set(plan.without):
                raise ValueError("`distill.without` leaves no teacher; leave one, or learn by `supervised`")
        if self.distill.network is not None:
            raise ValueError("`distill.network` is for variants; name the study's own by `student.model`")
        self._check_splits()
        if self.federation.min_sites > len(names):
            raise ValueError(
                f"`federation.min_sites` is {self.federation.min_sites} but the study has {len(names)} sites"
            )
        if self.averaging.labels and self.averaging.rounds > self.averaging_steps:
            raise ValueError(
                f"`averaging.rounds` is {self.averaging.rounds}, and there are {self.averaging_steps} steps"
            )
        if (self.preprocess.normalise == "window") != (self.task.modality == "CT"):
            wanted = "window" if self.task.modality == "CT" else "percentile-zscore"
            raise ValueError(f'{self.task.modality} needs `normalise = "{wanted}"` in `[preprocess]`')
        self._check_scanners()
        self._check_starts()
        networks: list[Student | Teacher] = [*map(self.student_of, self.distill.students), *map(self.teacher_of, names)]
        for network in networks:
            check_options(network.model, network.options)
            _check_size(network, self.preprocess)
        return self

    def _check_scanners(self) -> None:
        sources = [site.source for site in self.sites] + list(self.student.sources)
        simulated = any(isinstance(source, FolderSource) and source.scanner for source in sources)
        if simulated and (self.task.modality, self.task.inputs) != ("MR", 1):
            raise ValueError("`scanner` simulates one sequence of MR; leave it out")

    def _check_starts(self) -> None:
        for name in self.distill.students:
            start = self.distill.of(name).start
            if start in self.distill.students and self.student_of(start) != self.student_of(name):
                raise ValueError(f"student `{name}` begins with the weights of `{start}`, which is another network")

    def _check_splits(self) -> None:
        if self.answers.contents and not self.teacher.split[0]:
            raise ValueError("`teacher.split` leaves no patient to train on; that is for sites that only evaluate")
        if not self.distill.split[0]:
            raise ValueError("`distill.split` leaves no patient to train on")

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.task.classes)

    @property
    def averaging_steps(self) -> int:
        """Optimiser steps of every site under `[averaging]`."""
        return self.averaging.steps or self.distill.steps

    def site(self, name: str) -> Site:
        """The site of that name; InputError with the nearest name if there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise InputError(unknown("site", name, [site.name for site in self.sites]), where=f"study `{self.name}`")

    def student_of(self, name: str) -> Student:
        """The network of the student of that name: `[student]`'s, or the one that a variant puts in its place."""
        plan = self.distill.of(name)
        if plan.network is None:
            return self.student
        return self.student.model_copy(update={"model": plan.network, "options": plan.network_options})

    def varied(self, variant: str) -> Self:
        """The study as if the student of that name were its only one; InputError where it has no such variant."""
        if variant not in self.distill.variants:
            what = unknown("variant", variant, list(self.distill.variants))
            raise InputError(what, where=f"study `{self.name}`", fix="add it to `[distill.variants]`")
        return self.model_copy(update={"distill": self.distill.of(variant), "student": self.student_of(variant)})

    def teacher_of(self, name: str) -> Teacher:
        """How that site trains: `[teacher]` with the site's own network and options where it names them."""
        site = self.site(name)
        options = self.teacher.options if site.options is None else site.options
        return self.teacher.model_copy(update={"model": site.model or self.teacher.model, "options": options})

    def epochs_of(self, site: str, number: int) -> int:
        """How long that site's teacher has trained when the sites are asked in round `number`, counted from 0."""
        return -(-self.teacher_of(site).epochs * (number + 1) // self.answers.rounds)

    def steps_of(self, number: int) -> int:
        """How far the student has been trained when the answers of round `number` have been learned from."""
        return -(-self.distill.steps * (number + 1) // self.answers.rounds)

    def hash(self) -> str:
        """Twelve hex digits that change with any setting that a distilled student's weights depend on."""
        apart: dict[str, bool | set[str]]
        apart = {"averaging": True, "federation": True, "answers": {"contents", "views"}}  # a job knows what it read
        apart["distill"] = {"scheme", "compare", "variants"}
        settings = self.model_dump(mode="json", exclude=apart)
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def read_study(path: Path) -> Study:
    """study.toml checked whole; InputError names file, key and remedy of every fault. Folders become absolute."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix="name an existing study file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not TOML: {error}", where=path, fix="mend that line") from error
    study = resolve(checked(content, path), path.resolve().parent)
    _check_apart(study, path)
    return study


def checked(content: dict[str, Any], path: Path) -> Study:
    """The study of that content; InputError naming `path` and every fault."""
    try:
        return Study.strictly(content)
    except ValidationError as error:
        what = faults(error, file=path.name, plan=Study)
        raise InputError(what, where=path, fix="`preceptor study` explains every key") from error


def reference() -> list[Row]:
    """Every key of study.toml as (key, type, default, meaning)."""
    return list(rows(Study))


def check_rooms(study: Study, *, schemes: Collection[str], phantoms: Mapping[str, Profile]) -> None:
    """InputError unless these rooms have all that the study asks of them: its schemes, and phantoms of its task.

    Apart from `read_study`, which need not know the rooms.
    """
    try:
        for name in study.distill.students:
            known("scheme", study.distill.of(name).scheme, list(schemes))
            if name in study.distill.variants and name in {*schemes, *TAKEN}:
                raise ValueError(
                    f"`distill.variants.{name}` has the name of a scheme or of another folder of a run; give it another"
                )
        for source in (*(site.source for site in study.sites), *study.student.sources):
            if isinstance(source, PhantomSource):
                _check_phantom(phantoms[known("phantom", source.phantom, list(phantoms))], study.task)
    except ValueError as error:
        raise InputError(str(error), where=f"study `{study.name}`", fix="mend it in the study's file") from error


def check_networks(study: Study) -> None:
    """InputError unless student and teachers can be built: whether an encoder exists, only building it tells.

    Weights are not downloaded.
    """
    networks: dict[str, Student | Teacher] = {"the student": study.student}
    networks |= {f"the student `{name}`": study.student_of(name) for name in study.distill.variants}
    networks |= {f"the teacher of site `{site.name}`": study.teacher_of(site.name) for site in study.sites}
    kinds = {(one.model, tuple(sorted(one.options.items()))): whose for whose, one in reversed(networks.items())}
    for (model, options), whose in reversed(kinds.items()):
        try:
            build(model, dict(options), study.task, study.preprocess)
        except InputError as error:
            raise InputError(error.what, where=f"study `{study.name}`, {whose}", fix=error.fix) from error


def _check_phantom(profile: Profile, task: Task) -> None:
    """ValueError unless the profile's scans and masks are what the task is about."""
    if profile.modality != task.modality:
        raise ValueError(f"phantom `{profile.name}` is {profile.modality}, and the task is about {task.modality}")
    if profile.classes != len(task.classes):
        wanted = f"background and {profile.organ}"
        raise ValueError(f"phantom `{profile.name}` has {wanted}, and the task has {len(task.classes)} classes")


def _check_apart(study: Study, path: Path) -> None:
    """InputError where sites, or a site and the student, have patients in common: some would train on others' tests."""
    sources = [("the student", source) for source in study.student.sources]
    sources += [(f"site `{site.name}`", site.source) for site in study.sites if site.source is not None]
    folders = [(whose, source) for whose, source in sources if isinstance(source, FolderSource)]
    for (whose, one), (other, another) in itertools.combinations(folders, 2):
        if whose != other and _overlap(one, another):
            fix = "give each its own folder, or its own range of `patients`"
            raise InputError(f"{other} and {whose} share patients", where=path, fix=fix)


def _overlap(one: FolderSource, other: FolderSource) -> bool:
    """Whether they can have patients in common; a folder within the other's is read with it."""
    if one.folder != other.folder:
        return one.folder.is_relative_to(other.folder) or other.folder.is_relative_to(one.folder)
    (first, end), (begin, last) = (source.patients or (0, math.inf) for source in (one, other))
    return first < last and begin < end


def resolve(study: Study, base: Path) -> Study:
    """The same study with every folder of scans absolute, so that a run directory stands alone."""

    def absolute(source: Source) -> Source:
        if isinstance(source, PhantomSource):
            return source
        return source.model_copy(update={"folder": (base / source.folder).resolve()})

    sites = [site.model_copy(update={"source": absolute(site.source)}) if site.source else site for site in study.sites]
    student = study.student.model_copy(update={"sources": [absolute(source) for source in study.student.sources]})
    return study.model_copy(update={"sites": sites, "student": student})


def _check_size(network: Student | Teacher, preprocess: Preprocess) -> None:
    """ValueError unless the network takes slices or patches of that size."""
    entry, size = models.spec(network.model), preprocess.shape
    key = "preprocess.patch" if preprocess.patch else "preprocess.size"
    if entry.dims != len(size):
        if preprocess.patch:
            raise ValueError(f"`{network.model}` reads slices; leave `preprocess.patch` out, or name {_others(3)}")
        raise ValueError(f"`{network.model}` reads patches of volumes; name their size by `preprocess.patch`")
    build = entry.build_with(network.options)
    if not fits(size, build.multiple, one_cell=build.one_cell):
        near = " or ".join(str(list(one)) for one in nearest(size, build.multiple, one_cell=build.one_cell))
        rule = "" if build.one_cell else ", with one side longer than that"
        needs = f"`{key}` {list(size)} is no multiple of {build.multiple}{rule}, which `{network.model}` needs"
        raise ValueError(f"{needs}; {near} would fit")


def _others(dims: int) -> str:
    return ", ".join(f"`{name}`" for name in models.names() if models.spec(name).dims == dims)
