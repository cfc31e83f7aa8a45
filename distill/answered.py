"""Which sites' answers a job can learn from, and why not where it cannot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.schemes.base import Needs
from distill.sources import StoredAnswers
from distill.unpacked import unpacked
from imaging.errors import InputError
from imaging.slices import SliceCache
from models.contents import ONNX
from study.cohorts import open_store, shards
from study.plan import Study
from study.run import left_out
from study.store import AnswerStore
from study.views import numbered

COLLECT = "run the phase `collect` again (`preceptor simulate` goes on with it by itself), or `preceptor answer`"


def open_answers(
    study: Study, run_folder: Path, slices: SliceCache, ids: NDArray[np.int64], needs: Needs
) -> StoredAnswers:
    """What the sites answered about the training slices `ids` and their views, as far as a scheme needs it, unpacked.

    Raises: InputError when no or too few sites have answered, a site's answers are not complete although it was not
    left out, one is damaged, or no site gave what the scheme needs (by its policy, or having logits alone).
    """
    store = open_store(study, run_folder, slices)
    check_fit(study, store)
    sites = answering(study, store, len(shards(study, slices)), needs.contents)
    sites = [site for site in sites if site not in study.distill.without]
    if not sites:
        what = f"without {' and '.join(study.distill.without)} no site is left that has answered"
        raise InputError(what, where=store.folder, fix="hear one of them")
    if needs.teachers == "one":
        giving = [site for site in sites if not set(needs.contents) & set(store.withheld(site))]
        sites = [single_teacher(study, store, giving or sites)]
    for content in needs.contents:
        withholding = [site for site in sites if content in store.withheld(site)]
        if len(withholding) == len(sites):
            what = f"no site released {content}, which the scheme needs"
            fix = "learn without it (such as `--set amtkd.alpha=0 --label NAME`)"
            if able := [site for site in withholding if store.card(site).model != ONNX]:
                gone = ", ".join(str(store.folder / site / store.round_name / content) for site in able)
                fix += f", or ask a site to allow it, remove {gone} and {COLLECT}"
            raise InputError(what, where=store.folder, fix=fix)
    caches, size = run_folder / "distill" / "answers-cache", (slices.images.shape[1], slices.images.shape[2])
    asked = np.concatenate([numbered(slices, ids, view) for view in range(study.answers.views + 1)])
    return StoredAnswers({
        site: unpacked(store, site, needs.contents, caches / site, asked, size=size) for site in sites
    })  # fmt: skip


def check_fit(study: Study, store: AnswerStore) -> None:
    """InputError unless what each site answered is of the study's classes, on slices prepared as it prepares them."""
    for site in [site.name for site in study.sites if site.name in store.sites()]:
        fix = "restore the study's settings, or collect anew into another folder (`preceptor simulate STUDY --out`)"
        for content in store.contents(site):
            notes = store.notes(site, content)
            theirs, ours = notes.card.fingerprint, study.preprocess.fingerprint()
            if theirs != ours:
                what = f"site {site} answered about slices prepared otherwise ({theirs}, the study: {ours})"
                raise InputError(what, where=store.folder, fix=fix)
            told = notes.arrays["logits"].shape[0] if "logits" in notes.arrays else study.classes
            if told != study.classes:
                what = f"the teacher of site {site} knows {told} classes, the study has {study.classes}"
                raise InputError(what, where=store.folder, fix=fix)


def answering(study: Study, store: AnswerStore, n_shards: int, contents: Sequence[str]) -> list[str]:
    """Sites with answers, in the study's order: complete, or left out by the coordinator halfway.

    What a left-out site did not answer weighs nothing. Raises: InputError, see `open_answers`.
    """
    absent = left_out(store.folder.resolve().parent)  # of the run that collected: the store may be another's
    if unasked := [content for content in contents if content not in study.answers.contents]:
        what = f"the sites were not asked for {' and '.join(unasked)}, which the scheme needs"
        fix = f"add {json.dumps(unasked)} to `answers.contents` in the study and to the sites' policies, and {COLLECT}"
        raise InputError(what, where=store.folder, fix=fix)
    missing = {site.name: store.missing(site.name, n_shards, contents) for site in study.sites}
    for site, lacking in missing.items():
        if lacking and site not in absent:
            done, first = n_shards - len(lacking), min(lacking)
            what = f"site {site} has answered {done} of {n_shards} shards; the first missing is {first}"
            what += f" ({', '.join(lacking[first])})" if set(lacking[first]) < set(contents) else ""
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
        what = f"`distill.mono_teacher` is {chosen}, which has not answered what the scheme needs"
        raise InputError(what, where=store.folder, fix=f"name one that has: {', '.join(sites)}")
    return chosen
