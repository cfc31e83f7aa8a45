"""Which sites' answers a job can learn from, and why not where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.schemes.base import Needs
from distill.sources import StoredAnswers
from distill.unpacked import Unpacked
from imaging.errors import InputError
from imaging.slices import SliceCache
from study.cohorts import open_store, shards
from study.plan import Study
from study.run import Run, left_out
from study.store import AnswerStore

COLLECT = "run the phase `collect` again (`preceptor simulate` goes on with it by itself)"


def open_answers(
    study: Study, run_folder: Path, slices: SliceCache, ids: NDArray[np.int64], needs: Needs
) -> StoredAnswers:
    """What the sites answered about the training slices `ids`, as far as a scheme needs it, unpacked for fast reading.

    Raises: InputError when no or too few sites have answered, a site's answers are not complete although it was not
    left out, one is damaged, or a site's policy withheld what the scheme needs.
    """
    store = open_store(study, run_folder, slices)
    sites = answering(study, Run(run_folder), store, len(shards(study, slices)))
    if needs.teachers == "one":
        sites = [single_teacher(study, store, sites)]
    unpacked = [Unpacked.build(store, site, run_folder / "distill" / "answers-cache" / site, ids) for site in sites]
    for one in unpacked:
        withheld = [name for name in needs.contents if name not in one.contents]
        if withheld:
            what = f"site {one.site} did not release {' and '.join(withheld)}, which the scheme needs"
            allow = f"ask the site to allow it in its policy, remove {store.folder / one.site} and {COLLECT}"
            fix = f"learn without it (`--set amtkd.alpha=0 --label NAME`, or in the study), or {allow}"
            raise InputError(what, where=store.folder / one.site, fix=fix)
    return StoredAnswers(unpacked, needs.contents)


def answering(study: Study, run: Run, store: AnswerStore, n_shards: int) -> list[str]:
    """Sites with answers, in the study's order: complete, or left out by the coordinator halfway.

    What a left-out site did not answer weighs nothing. Raises: InputError, see `open_answers`.
    """
    absent = left_out(run.folder)
    missing = {site.name: store.missing(site.name, n_shards) for site in study.sites}
    for site, lacking in missing.items():
        if lacking and site not in absent:
            done = n_shards - len(lacking)
            what = f"site {site} has answered {done} of {n_shards} shards; the first missing is {lacking[0]}"
            raise InputError(what, where=store.folder, fix=COLLECT)
    complete = sum(not lacking for lacking in missing.values())
    if complete < study.federation.min_sites:
        what = f"{complete} sites have answered all, `federation.min_sites` asks for {study.federation.min_sites}"
        raise InputError(what, where=store.folder, fix=COLLECT)
    return [site for site, lacking in missing.items() if len(lacking) < n_shards]


def single_teacher(study: Study, store: AnswerStore, sites: Sequence[str]) -> str:
    """The site that `distill.mono_teacher` names, or that whose teacher has the best validation Dice at home."""
    chosen = study.distill.mono_teacher
    if chosen is None:
        return max(sites, key=lambda site: store.card(site).dice)
    if chosen not in sites:
        what = f"`distill.mono_teacher` is {chosen}, which has answered nothing"
        raise InputError(what, where=store.folder, fix=f"name one that has: {', '.join(sites)}")
    return chosen
