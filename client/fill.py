"""A store filled without a federation: teachers that lie on this machine answer as they would at a site."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from client.ready import card_of, dice_on
from client.teacher import Teacher
from imaging.errors import InputError
from imaging.lock import Lock
from imaging.slices import SliceCache
from study.answers import Answers
from study.cards import card_path, read_card, write_card
from study.cohorts import lead_split, make_shard, open_store, shards
from study.plan import Study
from study.run import Run
from study.wire import Card


def check_rounds(study: Study) -> None:
    """InputError where the study waits for teachers that train on."""
    if study.answers.rounds > 1:
        what = "`answers.rounds` is for teachers that train on between the rounds; this one came ready"
        raise InputError(what, where=f"study `{study.name}`", fix="set it to 1")


def fill(
    study: Study,
    run_folder: Path,
    slices: SliceCache,
    teacher: Teacher,
    progress: Callable[[int, int], None] = lambda done, shards: None,
) -> Card:
    """Ask a teacher about the shards that the store misses of its site; its card.

    A reply goes through the wire's bytes and their check, as one that came from a site; each shard counts once it is
    whole in the store, so a fill that was stopped goes on.
    Raises: InputError when another teacher answers for that site, or an answer is not what was asked.
    """
    check_rounds(study)
    run, site, asked = Run(run_folder), teacher.site, shards(study, slices)
    lock = Lock(run_folder / "store" / f".{site}.lock")
    if not lock.take(wait=False):
        fix = "wait for it, or stop it with Ctrl-C"
        raise InputError(f"another process fills the answers of {site} now", where=run_folder, fix=fix)
    with lock:
        card, store = _settled(study, run_folder, slices, teacher), open_store(study, run_folder, slices)
        missing = store.missing(site, len(asked), study.answers.contents)
        there = len(asked) - len(missing)
        progress(there, len(asked))
        for done, (index, wants) in enumerate(missing.items(), there + 1):
            shard = make_shard(teacher.assignment, slices, index, asked[index], wants)
            body = teacher.answer(shard).pack()
            store.write(Answers.unpack(body, shard), card, wants)
            run.event("collected", site=site, shard=index, of=len(asked), round=0, bytes=len(body))
            progress(done, len(asked))
    return card


def _settled(study: Study, run_folder: Path, slices: SliceCache, teacher: Teacher) -> Card:
    """The run's card of that teacher, made where the site has none: its Dice is over the study lead's own patients."""
    site = teacher.site
    card = read_card(run_folder, site)
    if card is None:
        parts = lead_split(study, slices)
        shown = set(np.concatenate([parts["train"], parts["val"]]).tolist())
        cases = [case for case in slices.cases if case.labelled and case.start in shown]
        card = card_of(teacher, dice_on(teacher, slices, cases))
        write_card(run_folder, card)
    if card.weights_hash != teacher.weights_hash:
        path, answers = card_path(run_folder, site), run_folder / "store" / site
        fix = f"remove {path} and {answers}, or choose another run folder"
        raise InputError(f"another teacher answers for {site} in this run already", where=path, fix=fix)
    return card
