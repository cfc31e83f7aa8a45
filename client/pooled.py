"""The upper bound: the student trained on all sites' training patients together, as only a simulation may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.apprentice import OnMasks, plan
from client.scans import Scans, open_scans
from client.site import read_site
from client.training import TrainSlices
from imaging.errors import InputError
from study.averaging_table import POOLED
from study.baselines import request, ship
from study.cohorts import assignment
from study.draws import derived
from study.plan import Study
from study.start import arrays_of, first_student
from study.student import Check, StudentCard
from study.training import Progress, fit, use_threads


class Joined:
    """Rows of several memory-mapped arrays, counted through and read when they are asked for."""

    def __init__(self, parts: Sequence[tuple[NDArray[Any], NDArray[np.int64]]]) -> None:
        self._places = [(array, row) for array, rows in parts for row in rows.tolist()]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, chosen: NDArray[np.int64], /) -> NDArray[Any]:
        return np.stack([array[row] for array, row in (self._places[place] for place in chosen.tolist())])


@dataclass(frozen=True)
class Pool:
    """The training slices of several sites: images (N, H, W) and masks (N, H, W)."""

    images: Joined
    masks: Joined
    identity: str

    @classmethod
    def of(cls, sites: list[Scans]) -> Pool:
        images = Joined([(scans.cache.images, scans.slices("train")) for scans in sites])
        masks = Joined([(scans.cache.masks, scans.slices("train")) for scans in sites])
        return cls(images, masks, "-".join(scans.identity() for scans in sites))


def pool(study: Study, run_folder: Path, *, progress: Callable[[Progress], None] | None = None) -> StudentCard:
    """Train `distill/pooled` from where it stands, with the start, settings and steps of the averaged students.

    Raises: InputError where the sites' folders are not here, as in every study but a simulation.
    """
    files = [run_folder / "hospitals" / site.name / "site.toml" for site in study.sites]
    if missing := [file for file in files if not file.exists()]:
        what = "the sites' scans are not here to be pooled: in a real study nobody may see them all"
        fix = f"pool in a simulation only, where {missing[0]} leads to a site's scans"
        raise InputError(what, where=run_folder, fix=fix)
    use_threads(study.distill.threads)
    sites = [open_scans(config, assignment(study, config.name)) for config in map(read_site, files)]
    slices, network = Pool.of(sites), first_student(study)
    asked = request(study, study.sites[0].name, POOLED, 0, study.averaging_steps)
    seed, folder = derived(study.seed, "apprentice", POOLED), run_folder / "distill" / POOLED
    outcome = fit(
        OnMasks(network, asked),
        TrainSlices(slices, np.arange(len(slices.images)), asked.batch, seed, study.augment),
        plan(asked, seed, identity=f"{study.hash()}-{slices.identity}"),
        folder,
        validate=None,
        progress=progress,
    )
    return ship(
        study,
        run_folder,
        POOLED,
        arrays_of(network),
        parameters=sum(weight.numel() for weight in network.parameters()),
        seconds=sum(part.seconds for part in outcome.history),
        history=[Check(step=part.step, dice=None, terms=part.terms) for part in outcome.history],
    )
