"""Every network at every site's patients, in one process: for whoever may read all folders, as in a simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.apprentice import load_local
from client.evaluate import evaluate
from client.scans import Part, Scans, open_scans
from client.site import SiteConfig
from client.teacher import load_teacher
from imaging.errors import InputError
from study.cohorts import assignment
from study.plan import Study
from study.prediction import load_student
from study.run import MIXTURE


@dataclass(frozen=True)
class Row:
    """A network at a site: metrics of each case, and the cases' mean Dice."""

    network: str
    site: str
    split: Part
    dice: list[float]
    cases: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The row as it stands in cross.json."""
        mean = float(np.mean(self.dice))
        return {"network": self.network, "site": self.site, "split": self.split, "dice": mean, "cases": self.cases}


def matrix(
    study: Study,
    sites: list[SiteConfig],
    *,
    teachers: list[SiteConfig],
    students: list[Path],
    alone: Sequence[SiteConfig] = (),
    split: Part,
    progress: Callable[[str, str], None] = lambda network, site: None,
) -> Iterator[Row]:
    """A row for each network and site: teachers, what several of them make of a slice together, then as `local-SITE`
    the students that `alone` trained alone, then `students`.

    One case in memory at a time, and one network; of the teachers together all.
    Raises: InputError when a teacher was not trained, a student is missing, or a site has no patient in that split.
    """
    scans = {site.name: open_scans(site, assignment(study, site.name)) for site in sites}
    for home in teachers:
        yield from _row(study, home.name, _teacher(home, study), scans, split=split, progress=progress)
    if len(teachers) > 1:
        together = Mixture([_teacher(home, study) for home in teachers])
        yield from _row(study, MIXTURE, together, scans, split=split, progress=progress)
    for home in alone:
        network = load_local(home, study)
        yield from _row(study, f"local-{home.name}", network, scans, split=split, progress=progress)
    for folder in students:
        yield from _row(study, folder.name, student(folder, study), scans, split=split, progress=progress)


class Mixture(nn.Module):
    """Several networks as one, by the mean of their probabilities: what a student of them all is measured against."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, H, W) → the logarithm of the mean probabilities (N, C, H, W), in place of logits."""
        each = torch.stack([network(images).log_softmax(1) for network in self.networks])
        return each.logsumexp(0) - math.log(len(self.networks))


def _teacher(home: SiteConfig, study: Study) -> nn.Module:
    return load_teacher(home, assignment(study, home.name)).network


def student(folder: Path, study: Study) -> nn.Module:
    """The student in a folder such as run/distill/consensus; InputError where is none, or one of another study."""
    card, network = load_student(folder)
    if card.classes != study.task.classes:
        what = f"segments {', '.join(card.classes)}, the study has {', '.join(study.task.classes)}"
        raise InputError(what, where=folder, fix="name a student of this study")
    if card.preprocess != study.preprocess.model_dump(mode="json"):
        what = f"learned from slices prepared otherwise ({card.preprocess})"
        raise InputError(what, where=folder, fix="name a student of this study, or evaluate it in its own run")
    return network


def _row(
    study: Study,
    name: str,
    network: nn.Module,
    scans: dict[str, Scans],
    *,
    split: Part,
    progress: Callable[[str, str], None],
) -> Iterator[Row]:
    torch.manual_seed(study.seed)
    for site, held in scans.items():
        progress(name, site)
        found = evaluate(network, held, split, study.task)
        cases = [evaluated.metrics.model_dump(mode="json") for evaluated in found]
        yield Row(name, site, split, [evaluated.dice for evaluated in found], cases)
