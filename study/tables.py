"""The tables of study.toml; the docstring under each field is its reference and its help."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

import models
from imaging.errors import InputError
from imaging.scanner import Scanner
from models.contents import DEFAULT, Content, Grid, Precision
from study.dsd_table import Dsd, Missu
from study.mod_table import Mod
from study.schedule import Schedule
from study.table import Plan

NAME = r"^[a-z0-9][a-z0-9-]{0,40}$"
Name = Annotated[str, Field(pattern=NAME)]
"""Lower-case letters, digits and hyphens: it becomes a folder and a certificate's name."""
Options = dict[str, str | int]
"""Options of a network."""


def _shares(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    if not abs(sum(shares) - 1) < 1e-6 or min(shares) < 0:
        raise ValueError("holds three shares of patients that add up to 1, such as [0.7, 0.1, 0.2]")
    return shares


def _teacher(name: str) -> str:
    return known("teacher", name, models.names("teacher"))


def _student(name: str) -> str:
    return known("student", name, models.names("student"))


TeacherName = Annotated[str, AfterValidator(_teacher)]
StudentName = Annotated[str, AfterValidator(_student)]
Split = Annotated[tuple[float, float, float], AfterValidator(_shares)]
"""Shares of patients for training, validation and test."""


class Task(Plan):
    """`[task]`: what is segmented."""

    modality: Literal["MR", "CT"]
    """DICOM's code; scans of another modality are put aside."""
    classes: list[str] = Field(min_length=2, max_length=255)
    """Class names; a mask's value is the position in this list, and 0 is the background."""
    channels: list[str] = Field(default_factory=list, max_length=16)
    """Names of the sequences that lie in one file of each scan, such as BraTS' four, in their order; one sequence,
    which needs no name, when absent."""
    regions: dict[str, list[str]] = Field(default_factory=dict)
    """Regions that may overlap, each with the classes that it consists of, such as `WT = ["edema", "enhancing"]`. Where
    there are any, metrics are theirs and not the classes'."""

    @property
    def inputs(self) -> int:
        """How many channels a network reads."""
        return max(1, len(self.channels))

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """What metrics are told of, as numbers of classes: the regions, or every class but the background."""
        if self.regions:
            return {name: tuple(map(self.classes.index, parts)) for name, parts in self.regions.items()}
        return {name: (label,) for label, name in enumerate(self.classes) if label}

    @property
    def unions(self) -> tuple[tuple[int, ...], ...]:
        """The regions as numbers of classes; none where there are none."""
        return tuple(self.structures.values()) if self.regions else ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.channels)) < len(self.channels) or not all(self.channels):
            raise ValueError(f"`channels` needs a name of its own for each sequence, got {self.channels}")
        for region, classes in self.regions.items():
            for name in classes:
                known("class", name, self.classes[1:])
            if not classes or len(set(classes)) < len(classes):
                raise ValueError(f"`regions.{region}` needs classes, each once, got {classes}")
        if len(set(self.classes)) < len(self.classes) or not all(self.classes):
            raise ValueError(f"`classes` needs a name of its own for each class, got {self.classes}")
        return self


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
    chosen: ClassVar[None] = None  # as `FolderSource.chosen`

    @property
    def made(self) -> str:
        """As `FolderSource.made`."""
        return self.phantom

    @property
    def count(self) -> int:
        """Patients that are written."""
        return self.cases

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.masks is not None and self.masks > self.cases:
            raise ValueError(f"`masks` is {self.masks}, and there are {self.cases} cases")
        return self


class FolderSource(Plan):
    """`{ folder = "../shared/data/acdc/DCM" }`: real scans that lie on this machine, relative to study.toml."""

    folder: Path
    """Read where it is; nothing is copied or written there."""
    patients: tuple[int, int] | None = None
    """Only patients from the first number up to, not including, the second, in the order of their ids."""
    masks: int | None = Field(None, ge=0)
    """Only the first so many of these patients keep their masks; the other masks are never read."""
    scanner: Scanner | None = None
    """Another scanner simulated on these scans: files of its own are written, and the folder stays as it is."""

    @property
    def made(self) -> str:
        """What the files that a simulation writes of this source are called; "" where it reads them as they lie."""
        return "rescanned" if self.scanner else ""

    @property
    def count(self) -> int:
        """Patients that are written, where `made`."""
        return self.patients[1] - self.patients[0] if self.patients else 0

    @property
    def chosen(self) -> tuple[int, int] | None:
        """`patients`, as far as they are not chosen when the files are written."""
        return None if self.made else self.patients

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.patients is not None and not 0 <= self.patients[0] < self.patients[1]:
            raise ValueError(f"`patients` is {list(self.patients)}; write the first number and one above the last")
        if self.scanner and self.patients is None:
            raise ValueError("`scanner` writes scans anew; say of whom by `patients`, such as `patients = [0, 24]`")
        return self


def _kind_of_source(source: Any) -> str | None:
    keys = source if isinstance(source, dict) else vars(source) if isinstance(source, Plan) else {}
    kinds = [kind for kind in ("phantom", "folder") if kind in keys]
    return f"<{kinds[0]}>" if len(kinds) == 1 else None


Source = Annotated[
    Annotated[PhantomSource, Tag("<phantom>")] | Annotated[FolderSource, Tag("<folder>")],
    Discriminator(
        _kind_of_source,
        custom_error_type="source",
        custom_error_message='is no source; write either { folder = "scans" } or { phantom = "promise12", cases = 12 }',
    ),
]


class Teacher(Plan):
    """How a site trains its teacher; `[teacher]` for all sites."""

    scheme: Literal["supervised", "dsd", "missu", "mod"] = "supervised"
    """How it learns: from its masks alone, or from itself too (`teacher.dsd`, `teacher.missu`, `teacher.mod`)."""

    model: TeacherName = "deeplabv3plus"
    """A teacher of `preceptor models`."""
    options: Options = Field(default_factory=dict)
    """Options of that network, such as `encoder = "resnet18"`."""
    epochs: int = Field(100, ge=1, le=1_000_000)
    """At most; early stopping may end sooner. Paper: 100 (AMTKD, section 4.3)."""
    round_epochs: int = Field(1, ge=1)
    """Epochs that one message asks for: a lost message costs at most these, and a site is silent for as long."""
    batch: int = Field(16, ge=2, le=1024)
    """Slices or patches a step."""
    lr: float = Field(0.01, gt=0, le=10)
    """Adam's peak learning rate (AMTKD, section 4.3)."""
    schedule: Schedule = "one-cycle"
    """How the learning rate goes: `one-cycle` up to `lr` and down to nearly 0, `cosine` down from `lr`, `halving` half
    as much after each sixth of the epochs (DSD's code), `constant`."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled (AdamW), where it is above 0. DSD's code: 1e-5; MOD: 0.05."""
    patience: int = Field(20, ge=1)
    """Epochs without a better validation Dice before training ends."""
    split: Split = (0.7, 0.1, 0.2)
    """Shares of patients for training, validation and test."""
    dsd: Dsd = Dsd()
    missu: Missu = Missu()
    mod: Mod = Mod()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_options(self.model, self.options)
        return self


class Site(Plan):
    """`[[sites]]`: one hospital, as the study knows it."""

    name: Name
    """The name its key was registered under."""
    source: Source | None = None
    """Simulation only: where this hospital's scans come from. A real hospital names its folder in its own site.toml."""
    model: TeacherName | None = None
    """Another teacher than `[teacher] model`; the paper gives each site a different one (Table 4)."""
    options: Options | None = None
    """Options of that network."""


class Student(Plan):
    """`[student]`: the light network and the study lead's scans."""

    model: StudentName = "enet"
    """A student of `preceptor models`."""
    options: Options = Field(default_factory=dict)
    """Options of that network."""
    sources: list[Source] = Field(min_length=1)
    """The student's scans: the study lead's own, to be shown to the sites. Masks may be missing."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_options(self.model, self.options)
        return self


class Encoding(Plan):
    """How answers travel and lie; a run's own, see docs/answers.md."""

    precision: Precision = "float16"
    """Of logits: `uint8` and `4bit` are whole numbers, with a lowest value and a step a slice and class; maps then are
    `uint8`, region contrast stays as it is, and `features` are float16."""
    grid: Grid = "full"
    """Of logits: `teacher` is the network's own where it ends in a plain enlargement, which the coordinator then does
    (a DeepLabV3+ sends 1/16 of them, a PSPNet 1/64), and `full` elsewhere; `half` is that, or half the rows and columns
    where there is no such grid (0.1 points of Dice)."""


class Asked(Encoding):
    """`[answers]`: what the sites are asked to say of the student's slices, and how it travels."""

    contents: list[Content] = Field(default_factory=lambda: list(DEFAULT))
    """`preceptor schemes` tells which a scheme needs; what is added later is asked for later, and nothing twice. None
    at all: no teacher is trained, and sites only evaluate students that learn from masks alone."""

    views: int = Field(0, ge=0, le=1000)
    """Seeded variations of each training slice (by `[augment]`) that are asked about beside it. The student then learns
    from these pictures as the teachers saw them; at 0 from the slices, varied anew each time, and what was answered is
    moved alike. Each view takes as many bytes of answers as the slices do; more may be asked for later."""

    rounds: int = Field(1, ge=1, le=100)
    """How often the sites are asked. With several, teachers are asked first when they have trained for their share of
    the epochs, and again after each further share; the student learns from each round's answers in its turn."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.contents)) < len(self.contents):
            raise ValueError(f"`contents` names one twice: {', '.join(self.contents)}")
        return self

    @property
    def encoding(self) -> Encoding:
        """How it travels, alone."""
        return Encoding(precision=self.precision, grid=self.grid)


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


def unknown(kind: str, name: str, choices: list[str]) -> str:
    """Words for a name that nobody knows: the nearest one first, then all."""
    near = get_close_matches(name, choices, n=1)
    hint = f", did you mean `{near[0]}`?" if near else "."
    return f"no {kind} is called `{name}`{hint} There are: {', '.join(choices) or 'none'}"


def known(kind: str, name: str, choices: list[str]) -> str:
    """`name`, or ValueError in `unknown`'s words unless it is one of `choices`."""
    if name not in choices:
        raise ValueError(unknown(kind, name, choices))
    return name


def check_options(model: str, options: Options) -> None:
    """ValueError unless that network takes these options."""
    try:
        models.check_options(models.spec(model), options)
    except InputError as error:
        raise ValueError(str(error)) from error
