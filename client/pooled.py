"""The upper bound: the student trained on all sites' training patients together, as only a simulation may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Pool:
    """The training slices, or patches, of several sites, numbered one site after another."""

    sites: Sequence[Scans]
    places: NDArray[np.int64]
    """(N, 2): which site, and the number there."""

    @classmethod
    def of(cls, sites: Sequence[Scans]) -> Pool:
        own = [scans.slices("train") for scans in sites]
        return cls(sites, np.concatenate([np.stack([np.full_like(ids, n), ids], 1) for n, ids in enumerate(own)]))

    @property
    def identity(self) -> str:
        """Changes with any site's patients, and with which of them train."""
        return "-".join(scans.identity() for scans in self.sites)

    def drawn(
        self, ids: NDArray[np.int64], random: np.random.Generator, *, foreground: float
    ) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """See `SliceCache.drawn`."""
        each = [
            self.sites[site].cache.drawn(np.array([number]), random, foreground=foreground)
            for site, number in self.places[ids].tolist()
        ]
        return np.concatenate([image for image, _ in each]), np.concatenate([mask for _, mask in each])


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
        TrainSlices(slices, np.arange(len(slices.places)), asked.batch, seed, study.augment),
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
