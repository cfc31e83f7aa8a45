"""study.toml as frozen classes; the docstring under each field is its reference and its help."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import models
from imaging.errors import InputError
from imaging.preprocess import Preprocess

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
"""Lower-case letters, digits and hyphens: it becomes a folder and a certificate's name."""


class Plan(BaseModel):
    """A table of study.toml: frozen, and a key it does not know is refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Task(Plan):
    """`[task]`: what is segmented."""

    modality: Literal["MR", "CT"]
    """DICOM's code; decides how intensities are normalised."""
    classes: list[str] = Field(min_length=2, max_length=255)
    """Class names; a mask's value is the position in this list, and 0 is the background."""


class PhantomSource(Plan):
    """`{ phantom = "promise12", cases = 12 }`: synthetic scans, written to disk as files."""

    phantom: str
    """Scanner profile; `preceptor phantom --help` lists them."""
    cases: int = Field(ge=1)
    """Patients to make."""
    masks: int | None = Field(None, ge=0)
    """Only the first so many patients keep their masks; all when absent."""
    format: Literal["nifti", "dicom"] = "nifti"
    """NIfTI pairs, or a DICOM series with a DICOM SEG for each patient."""


class FolderSource(Plan):
    """`{ folder = "../shared/data/acdc/DCM" }`: real scans that lie on this machine, relative to study.toml."""

    folder: Path
    """Read where it is; nothing is copied or written there."""
    patients: tuple[int, int] | None = None
    """Only patients from the first number up to, not including, the second, in the order of their ids."""
    masks: int | None = Field(None, ge=0)
    """Only the first so many of these patients keep their masks; the other masks are never read."""


Source = PhantomSource | FolderSource


class Teacher(Plan):
    """How a site trains its teacher; `[teacher]` for all sites."""

    model: str = "deeplabv3plus"
    """A teacher of `preceptor models`."""
    options: dict[str, str | int] = Field(default_factory=dict)
    """Options of that network, such as `encoder = "resnet18"`."""
    epochs: int = Field(100, ge=1)
    """At most; early stopping may end sooner. Paper: 100 (AMTKD, section 4.3)."""
    round_epochs: int = Field(5, ge=1)
    """Epochs that one message asks for: a lost message costs at most these."""
    batch: int = Field(16, ge=2)
    """Slices a step."""
    lr: float = Field(0.01, gt=0)
    """Adam's peak learning rate (AMTKD, section 4.3)."""
    patience: int = Field(20, ge=1)
    """Epochs without a better validation Dice before training ends."""
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of patients for training, validation and test."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        known("teacher", self.model, models.names("teacher"))
        if abs(sum(self.split) - 1) > 1e-6 or min(self.split) < 0 or self.split[0] == 0:
            raise ValueError("`split` holds three shares of patients that add up to 1, such as [0.7, 0.1, 0.2]")
        return self


class Site(Plan):
    """`[[sites]]`: one hospital, as the study knows it."""

    name: Name
    """The name its key was registered under."""
    source: Source | None = None
    """Simulation only: where this hospital's scans come from. A real hospital names its folder in its own site.toml."""
    model: str | None = None
    """Another teacher than `[teacher] model`; the paper gives each site a different one (Table 4)."""
    options: dict[str, str | int] | None = None
    """Options of that network."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model is not None:
            known("teacher", self.model, models.names("teacher"))
        return self


class Student(Plan):
    """`[student]`: the light network and the study lead's scans."""

    model: str = "enet"
    """A student of `preceptor models`."""
    options: dict[str, str | int] = Field(default_factory=dict)
    """Options of that network."""
    sources: list[Source] = Field(min_length=1)
    """The student's scans: the study lead's own, to be shown to the sites. Masks may be missing."""


class Amtkd(Plan):
    """`[distill.amtkd]`: the adaptive multi-teacher scheme (AMTKD, equations 1 to 7)."""

    law: Literal["agreement", "as-printed", "agreement-softmax"] = "agreement"
    """Weights of the teachers a slice: the better gets more, or, as printed after Eq. 7, the worse gets more."""
    dice: float = Field(0.2, ge=0)
    """alpha1, weight of the Dice loss (Eq. 5)."""
    lovasz: float = Field(0.3, ge=0)
    """alpha2, weight of the Lovász-Softmax loss (Eq. 5)."""
    alpha: float = Field(0.1, ge=0)
    """Weight of the intermediate loss, attention and region contrast (Eq. 6)."""
    beta: float = Field(0.1, ge=0)
    """Weight of the temperature KL (Eq. 6)."""
    temperature: float = Field(4.0, gt=0)
    """lambda of Eq. 1; the paper gives none, 4 is EMKD's."""


class Distill(Plan):
    """`[distill]`: the central training of the student."""

    scheme: str = "amtkd"
    """The scheme whose student is shipped; `preceptor schemes` lists them."""
    compare: list[str] = Field(default_factory=lambda: ["supervised", "mono-teacher", "uniform"])
    """Schemes trained beside it, for the report."""
    steps: int = Field(4000, ge=1)
    """Optimiser steps."""
    batch: int = Field(16, ge=2)
    """Slices a step (EMKD code: 16)."""
    lr: float = Field(0.01, gt=0)
    """CyclicLR's upper learning rate for Adam (AMTKD, section 4.3)."""
    lr_min: float = Field(1e-6, ge=0)
    """CyclicLR's lower learning rate (AMTKD, section 4.3)."""
    lr_half_cycle: int = Field(2000, ge=1)
    """CyclicLR's step size: steps from the lower rate to the upper (AMTKD, section 4.3)."""
    labelled_share: float = Field(0.5, ge=0, le=1)
    """Share of each batch drawn from slices with a mask, where some slices have none."""
    validate_every: int = Field(200, ge=1)
    """Steps between two validations on the study lead's validation patients, and between two checkpoints."""
    split: tuple[float, float, float] = (0.8, 0.2, 0.0)
    """Shares of the study lead's patients for training, validation and test."""
    mono_teacher: str | None = None
    """Site whose teacher `mono-teacher` learns from; when absent the one with the best validation Dice at home."""
    threads: int = Field(2, ge=1)
    """CPU threads; the student is the same again, bit for bit, only at the same number."""
    amtkd: Amtkd = Amtkd()


class Federation(Plan):
    """`[federation]`: how the coordinator deals with the sites."""

    min_sites: int = Field(1, ge=1)
    """The run goes on without silent or failing sites as long as so many are left."""
    patience_s: float = Field(3600.0, gt=0)
    """Seconds that a site may stay silent before it is left out."""
    resend_s: float = Field(600.0, gt=0)
    """Seconds without a reply after which a message is sent again (Flower never does)."""
    shard_slices: int = Field(64, ge=1, le=4096)
    """Slices a shard at most."""
    shards_in_flight: int = Field(2, ge=1)
    """Shards a site may have in hand: bounds the coordinator's memory."""


class Study(Plan):
    """A whole study.toml."""

    name: Name
    """Names the run directory."""
    seed: int = Field(0, ge=0)
    """Seeds every draw: the same study, seed and machine give the same student, bit for bit."""
    task: Task
    preprocess: Preprocess
    sites: list[Site] = Field(min_length=1)
    teacher: Teacher = Teacher()
    student: Student
    distill: Distill = Distill()
    federation: Federation = Federation()

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [site.name for site in self.sites]
        if len(set(names)) < len(names):
            raise ValueError(f"two sites share a name: {', '.join(names)}")
        if self.distill.mono_teacher is not None:
            known("site", self.distill.mono_teacher, names)
        if self.federation.min_sites > len(names):
            raise ValueError(f"`federation.min_sites` is {self.federation.min_sites} but the study has {len(names)} sites")
        known("student", self.student.model, models.names("student"))
        return self

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.task.classes)

    def site(self, name: str) -> Site:
        """The site of that name; InputError with the nearest names if there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise InputError(unknown("site", name, [site.name for site in self.sites]), where="study.toml")

    def teacher_of(self, name: str) -> Teacher:
        """How that site trains: `[teacher]` with the site's own network where it names one."""
        site = self.site(name)
        if site.model is None and site.options is None:
            return self.teacher
        options = site.options if site.options is not None else self.teacher.options
        return self.teacher.model_copy(update={"model": site.model or self.teacher.model, "options": options})

    def hash(self) -> str:
        """Twelve hex digits that change with any setting: what a run directory is checked against."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:12]


def unknown(kind: str, name: str, choices: list[str]) -> str:
    """Words for a name that nobody knows: the nearest one first, then all."""
    from difflib import get_close_matches

    near = get_close_matches(name, choices, n=1)
    hint = f", did you mean `{near[0]}`?" if near else "."
    return f"no {kind} is called `{name}`{hint} There are: {', '.join(choices)}"


def known(kind: str, name: str, choices: list[str]) -> None:
    """ValueError in `unknown`'s words unless `name` is one of `choices`."""
    if name not in choices:
        raise ValueError(unknown(kind, name, choices))


def read_study(path: Path) -> Study:
    """study.toml checked whole; InputError names file, key and remedy of every fault. Folders become absolute."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix="name an existing study.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not TOML: {error}", where=path, fix="mend that line") from error
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise InputError(faults(error), where=path, fix="`preceptor study --help` explains every key") from error
    return resolve(study, path.resolve().parent)


def faults(error: ValidationError) -> str:
    """One line a fault: key, what is wrong with it, what stood there."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        message = "is not a key of study.toml" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
        lines.append(f"{key}: {message}" if key else message)
    return "; ".join(dict.fromkeys(lines))


def resolve(study: Study, base: Path) -> Study:
    """The same study with every folder of scans absolute, so that a run directory stands alone."""

    def absolute(source: Source) -> Source:
        if isinstance(source, PhantomSource):
            return source
        return source.model_copy(update={"folder": (base / source.folder).resolve()})

    sites = [site.model_copy(update={"source": absolute(site.source)}) if site.source else site for site in study.sites]
    student = study.student.model_copy(update={"sources": [absolute(source) for source in study.student.sources]})
    return study.model_copy(update={"sites": sites, "student": student})
