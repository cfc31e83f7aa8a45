"""Small students, batches and teachers' answers; every size an unequal prime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from client.teacher import Teacher
from distill.schemes.base import Batch, TeacherBatch
from imaging.preprocess import Preprocess
from imaging.slices import SliceCache
from models.contents import CONTENTS, DEFAULT, NODES, Content, arrays_of, kind_of
from study.cohorts import assignment, lead_slices, make_shard, open_store
from study.cohorts import shards as all_shards
from study.plan import Asked, Distill, Study
from study.run import create_or_resume
from study.store import AnswerStore
from study.wire import Card

N, T, H, W = 5, 3, 23, 29
PREPROCESS = Preprocess(size=(40, 48))
SITES = ("north", "east", "south")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class TinyStudent(nn.Module):
    """Three layers with the taps' names, `encoder` at half and `decoder` at full resolution."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, 7, 3, stride=2, padding=1)
        self.decoder = nn.Conv2d(7, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Conv2d(5, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images).relu()
        features = nn.functional.interpolate(features, images.shape[2:])
        logits: Tensor = self.head(self.norm(self.decoder(features).relu()))
        return logits


@pytest.fixture
def student() -> Callable[[int], nn.Module]:
    return TinyStudent


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """A batch of `classes`, its last `unlabelled` slices without a mask."""

    def make(classes: int, *, unlabelled: int = 2, teachers: int = T) -> Batch:
        masks = torch.randint(classes, (N, H, W), dtype=torch.uint8)
        masks[N - unlabelled :] = 255
        sides = {"C": classes, "P": classes * (classes - 1) // 2, "M": NODES**2}
        grids = [{"h": 3, "w": 5, "c": 3}, {"h": 5, "w": 7, "c": 2}, {"h": 11, "w": 13, "c": 5}][:teachers]
        answers = TeacherBatch(
            logits=torch.randn(N, teachers, classes, H, W),
            answered=torch.ones(N, teachers, dtype=torch.bool),
            told=[{name: made_up(name, sides | grid) for name in TOLD} for grid in grids],
            sites=("north", "east", "south")[:teachers],
        )
        return Batch(torch.randn(N, 1, H, W), masks, torch.arange(N) < N - unlabelled, answers)

    return make


TOLD = [name for content in CONTENTS if content != "logits" for name in arrays_of(content)]


def made_up(name: str, sides: dict[str, int]) -> torch.Tensor:
    """Values of an array's kind for all slices: flags that hold, and numbers in [0, 1]."""
    shape = (N, *(sides[letter] for letter in kind_of(name).shape))
    return torch.ones(shape, dtype=torch.bool) if kind_of(name).dtype == "bool" else torch.rand(shape)


@dataclass(frozen=True)
class MadeRun:
    """A run folder as it stands when all answers have been collected, and the teachers who gave them."""

    folder: Path
    study: Study
    slices: SliceCache
    teachers: dict[str, nn.Module]

    @property
    def store(self) -> AnswerStore:
        return open_store(self.study, self.folder, self.slices)

    def changed(self, **distill: object) -> Study:
        """The study with other values in `[distill]`."""
        plan = Distill.model_validate(self.study.distill.model_dump() | distill)
        return self.study.model_copy(update={"distill": plan})

    def answer(self, site: str, shards: Sequence[int] | None = None, *, withheld: Sequence[str] = ()) -> None:
        """Put a teacher's answers into the store, as its site would have sent them."""
        asked, asks = all_shards(self.study, self.slices), assignment(self.study, site)
        teacher = Teacher(site, asks, self.teachers[site], f"weights of {site}")
        for index in range(len(asked)) if shards is None else shards:
            shard = make_shard(asks, self.slices, index, asked[index], self.study.answers.contents)
            told = asks.teacher.model_dump(include={"model", "options"})
            card = card_of(site).model_copy(update=told | {"fingerprint": asks.preprocess.fingerprint()})
            self.store.write(teacher.answer(shard).without(*withheld), card, shard.wants)


def card_of(site: str) -> Card:
    return Card(
        site=site,
        model="",
        options={},
        parameters=7,
        weights_hash=f"weights of {site}",
        fingerprint=PREPROCESS.fingerprint(),
        epochs=1,
        finished=True,
        dice={"north": 0.7, "east": 0.9, "south": 0.8}[site],
        best_epoch=1,
        patients={"train": 3, "val": 1, "test": 1},
        slices={"train": 3, "val": 1, "test": 1},
        set_aside=0,
        history=[],
    )


def write_scan(folder: Path, patient: int, classes: int, generator: np.random.Generator) -> None:
    """One patient's scan and mask: nested rings on noise, 5 slices of 37 x 43."""
    rows, columns = np.mgrid[:37, :43]
    centre = generator.uniform(15, 22, 2)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    mask = np.zeros((5, 37, 43), np.uint8)
    for label in range(1, classes):
        mask[1:, distance < 14 - 4 * label] = label
    image = 100 * mask + generator.normal(300, 20, mask.shape)
    for name, array in (("image", image.astype(np.float32)), ("mask", mask)):
        nib.save(nib.Nifti1Image(array.T, np.diag([-1.5, -1.5, 5.0, 1.0])), folder / f"p{patient:02d}_{name}.nii.gz")


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], MadeRun]:
    """A run of so many classes and masks with everything collected, made once and to be copied."""

    @cache
    def template(classes: int, masks: int) -> MadeRun:
        scans, folder = tmp_path_factory.mktemp("scans"), tmp_path_factory.mktemp("run")
        generator = np.random.default_rng(7)
        for patient in range(7):
            write_scan(scans, patient, classes, generator)
        study = Study.model_validate({
            "name": "tiny",
            "task": {"modality": "MR", "classes": ["background", "shell", "core", "seed", "dot"][:classes]},
            "preprocess": PREPROCESS.model_dump(),
            "sites": [{"name": name} for name in SITES],
            "student": {"model": "espnet", "sources": [{"folder": scans, "masks": masks}]},
            "distill": {"steps": 7, "batch": 4, "validate_every": 3, "lr_half_cycle": 5, "threads": 1},
            "federation": {"shard_slices": 11},
        })  # fmt: skip
        torch.manual_seed(1)
        teachers: dict[str, nn.Module] = {name: models.create("enet", 1, classes).eval() for name in SITES}
        run = MadeRun(folder, study, lead_slices(study, folder), teachers)
        for site in SITES:
            run.answer(site)
        return run

    return template


@pytest.fixture
def make_run(tmp_path: Path, templates: Callable[[int, int], MadeRun]) -> Callable[..., MadeRun]:
    """A run folder of `classes`: seven patients, those after `masks` without a mask, and three sites' answers."""

    def make(
        classes: int = 3,
        *,
        masks: int = 5,
        answered: bool = True,
        contents: Sequence[Content] = DEFAULT,
        **distill: object,
    ) -> MadeRun:
        template = templates(classes, masks)
        folder = tmp_path / "run"
        shutil.copytree(template.folder, folder, ignore=None if answered else shutil.ignore_patterns("store"))
        run = replace(template, folder=folder, teachers=deepcopy(template.teachers))
        run = replace(run, study=run.changed(**distill), slices=lead_slices(run.study, folder))
        run = replace(run, study=run.study.model_copy(update={"answers": Asked(contents=list(contents))}))
        create_or_resume(folder, run.study)
        if answered and tuple(contents) != DEFAULT:
            shutil.rmtree(folder / "store")
            for site in run.teachers:
                run.answer(site)
        return run

    return make
