"""The store holds what the sites answered, each shard asked once; a wrong answer never gets in."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from imaging.errors import InputError
from models.contents import DEFAULT, arrays_of
from study.answers import Answers
from study.cards import write_card
from study.cohorts import lead_slices, lead_split, open_store
from study.store import AnswerStore
from study.wire import Failure, Shard, ShardHeader, pack, unpack
from tests.server.loopback import SITES, pause
from tests.study.small_student import write_student

Make = Callable[..., Any]


def store_of(bench: Any) -> AnswerStore:
    return open_store(bench.study, bench.run.folder, lead_slices(bench.study, bench.run.folder))


def test_the_store_holds_what_the_sites_answered(trained: Make) -> None:
    bench = trained()
    bench.conduct("collect")
    store = store_of(bench)
    train = lead_split(bench.study, lead_slices(bench.study, bench.run.folder))["train"]
    for number, site in enumerate(SITES):
        answers = list(store.in_order(site, DEFAULT))
        assert [len(answer.slice_ids) for answer in answers] == [4, 4, 4, 3]
        ids = np.concatenate([answer.slice_ids for answer in answers])
        np.testing.assert_array_equal(ids, train)
        logits = np.concatenate([answer.arrays["logits"] for answer in answers])
        np.testing.assert_array_equal(logits[:, 1, 31, 47], (ids + number / 4).astype(np.float16))


def with_attention(answers: Answers) -> Answers:
    maps = {name: np.zeros((4, 8, 12), np.float16) for name in arrays_of("attention")}
    return replace(answers, arrays=answers.arrays | maps)


def test_what_a_policy_withholds_is_said_once_a_site(trained: Make) -> None:
    bench = trained()
    whole = bench.desks["hospital-b"]
    whole.before = [lambda _, body: with_attention(whole.answers(body)).pack()]
    bench.conduct("collect")
    told = {event["site"]: event["contents"] for event in bench.events("withheld")}
    assert told == {"hospital-b": ["contrast"]} | {site: ["attention", "contrast"] for site in SITES[::2]}
    assert len(bench.events("withheld")) == len(SITES)


def test_a_shard_carries_the_slices_and_masks_of_the_lead(trained: Make) -> None:
    bench = trained()
    bench.conduct("collect")
    cache = lead_slices(bench.study, bench.run.folder)
    shard = Shard.unpack(bench.desks["hospital-b"].asked[1][1])
    np.testing.assert_array_equal(shard.images, cache.images[shard.slice_ids])
    np.testing.assert_array_equal(shard.masks, cache.masks[shard.slice_ids])
    assert shard.assignment.teacher == bench.study.teacher_of("hospital-b")


def test_only_shards_that_the_store_misses_are_asked(trained: Make) -> None:
    bench = trained(min_sites=3)
    breaks = [lambda *_: None] * 2 + [lambda *_: b"not a message"] * 99
    bench.desks["hospital-b"].before = breaks
    with pytest.raises(InputError, match="hospital-b: shard 2 failed 3 times"):
        bench.conduct("collect")
    store = store_of(bench)
    assert store.shards("hospital-b", DEFAULT) == [0, 1]

    again = trained(min_sites=3)
    missing = {site: list(store.missing(site, 4, DEFAULT)) for site in SITES}
    again.conduct("collect")
    assert {site: desk.labels() for site, desk in again.desks.items()} == missing
    assert not any(store.missing(site, 4, DEFAULT) for site in SITES)


def test_no_more_shards_are_in_flight_than_the_study_allows(trained: Make) -> None:
    bench = trained(shards_in_flight=3, shard_slices=1)
    bench.grid.most_under_way = 0
    bench.conduct("collect")
    assert bench.grid.most_under_way == 3


def nan(answers: Any) -> Any:
    logits = answers.arrays["logits"].copy()
    logits[0, 0, 0, 0] = np.nan
    return replace(answers, arrays={"logits": logits})


def foreign_slices(answers: Any) -> Any:
    return replace(answers, slice_ids=answers.slice_ids + 1)


def wrong_shape(answers: Any) -> Any:
    return replace(answers, arrays={"logits": answers.arrays["logits"][:, :, :-1]})


def another_site(answers: Any) -> Any:
    return replace(answers, header=answers.header.model_copy(update={"site": "hospital-a"}))


def another_teacher(answers: Any) -> Any:
    return replace(answers, header=answers.header.model_copy(update={"weights_hash": "of yesterday"}))


def another_preparation(answers: Any) -> Any:
    return replace(answers, header=answers.header.model_copy(update={"fingerprint": "0123456789ab"}))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (nan, "holds NaN"),
        (foreign_slices, "slices that were not asked"),
        (wrong_shape, "expected float16"),
        (another_site, "another teacher"),
        (another_teacher, "another teacher"),
        (another_preparation, "0123456789ab"),
    ],
)
def test_a_reply_that_does_not_fit_is_rejected_and_asked_again(
    trained: Make, spoil: Callable[[Any], Any], cause: str
) -> None:
    bench = trained()
    desk = bench.desks["hospital-b"]
    desk.before = [lambda _, body: spoil(desk.answers(body)).pack()]
    bench.conduct("collect")
    (rejected,) = bench.events("rejected")
    assert (rejected["site"], rejected["message"]) == ("hospital-b", "shard 0")
    assert cause in rejected["cause"]
    assert not store_of(bench).missing("hospital-b", 4, DEFAULT)


def test_a_full_disk_of_the_coordinator_costs_no_site(trained: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = trained()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(AnswerStore, "_write", full)
        with pytest.raises(InputError, match="answers cannot be stored"):
            bench.conduct("collect")
    assert bench.events("rejected") == bench.events("site-left-out") == []
    bench.conduct("collect")
    assert not any(store_of(bench).missing(site, 4, DEFAULT) for site in SITES)


def test_a_store_that_was_damaged_meanwhile_costs_no_site(trained: Make) -> None:
    bench = trained()

    def damage(*_: object) -> None:
        note = bench.run.folder / "store" / "hospital-a" / "round-000" / "logits" / "zarr.json"
        while not note.exists():  # the shard before is on its way
            time.sleep(0.01)
        note.write_text("{")

    bench.desks["hospital-a"].before = [lambda *_: None, damage]
    with pytest.raises(InputError, match=r"the answers of site hospital-a cannot be read .*remove .*/store/hospital-a"):
        bench.conduct("collect")
    assert bench.events("rejected") == bench.events("site-left-out") == []


def test_a_site_that_answers_one_shard_is_not_asked_again_for_the_next(trained: Make) -> None:
    bench = trained(resend_s=1.5)
    bench.desks["hospital-a"].before = [pause(0.9)] * 2  # both are under way, so the second's reply comes after 1.8 s
    bench.conduct("collect")
    assert bench.events("sent-again") == []


def test_answers_about_other_scans_are_not_taken_for_answers(trained: Make) -> None:
    bench = trained()
    bench.conduct("collect")
    store = open_store(bench.study, bench.run.folder, lead_slices(bench.study, bench.run.folder))
    other = AnswerStore(store.folder, shard_slices=store.shard_slices, slices="one scan was exported anew")
    for ask in (lambda: other.missing("hospital-a", 4, DEFAULT), lambda: other.read("hospital-a", 0, DEFAULT)):
        with pytest.raises(InputError, match="site hospital-a has answered about other scans of the student"):
            ask()


@pytest.mark.parametrize("unforeseen", [ValueError, TypeError, KeyError])
def test_a_reply_that_nobody_foresaw_costs_that_reply_only(
    trained: Make, monkeypatch: pytest.MonkeyPatch, unforeseen: type[Exception]
) -> None:
    bench, unpack, faults = trained(), Answers.unpack, [unforeseen("dtype")]

    def fail_once(body: bytes, shard: Shard) -> Answers:
        if faults:
            raise faults.pop()
        return unpack(body, shard)

    monkeypatch.setattr("server.collect.Answers.unpack", fail_once)
    bench.conduct("collect")
    (rejected,) = bench.events("rejected")
    assert "cannot be understood" in rejected["cause"]
    assert not any(store_of(bench).missing(site, 4, DEFAULT) for site in SITES)


def test_a_teacher_that_has_not_finished_is_not_asked(trained: Make) -> None:
    bench = trained()
    card = bench.card("hospital-a")
    write_card(bench.run.folder, card.model_copy(update={"finished": False, "epochs": 4}))
    bench.conduct("collect")
    assert bench.desks["hospital-a"].asked == []
    assert store_of(bench).sites() == ["hospital-b", "hospital-c"]


def test_without_enough_teachers_nothing_is_asked(make_bench: Make) -> None:
    with pytest.raises(InputError, match=r"0 teachers have trained long enough, `federation\.min_sites` asks for 2"):
        make_bench().conduct("collect")


def named(body: bytes) -> bool:
    """Whether a shard came without its slices."""
    return set(unpack(body, ShardHeader)[1]) == {"slice_ids"}


def test_slices_travel_once_however_many_variations_are_asked_about(trained: Make) -> None:
    bench = trained(answers={"views": 2}, shards_in_flight=1)
    bench.conduct("collect")
    for desk in bench.desks.values():
        assert [named(body) for _, body in desk.asked] == [False] * 4 + [True] * 8
    assert not any(store_of(bench).missing(site, 12, ["logits"]) for site in SITES)

    later = trained(answers={"views": 2, "contents": ["logits", "features"]}, shards_in_flight=1)
    for site, desk in later.desks.items():
        desk.kept = bench.desks[site].kept
    later.conduct("collect")
    assert all(named(body) for desk in later.desks.values() for _, body in desk.asked)


def lacking(_: str, body: bytes) -> bytes:
    return pack(Failure(cause="the slices are not kept here", site="hospital-b", lacks=True))


def test_a_site_that_lacks_the_slices_is_sent_them_again(trained: Make) -> None:
    bench = trained(answers={"views": 1}, shards_in_flight=1)
    desk = bench.desks["hospital-b"]
    desk.before = [lambda *_: None] * 4 + [lacking]
    bench.conduct("collect")
    assert [named(body) for _, body in desk.asked] == [False] * 4 + [True, False] + [True] * 3
    assert not bench.events("rejected")


@pytest.mark.parametrize("phase", ["train", "collect", "evaluate"])
def test_a_site_that_lacks_whatever_it_is_sent_is_left_out(trained: Make, phase: str) -> None:
    bench = trained()
    desk = bench.desks["hospital-b"]
    if phase == "train":
        path = bench.run.folder / "teachers" / "hospital-b.json"
        path.unlink()
    if phase == "evaluate":
        write_student(bench.run.folder / "distill" / "amtkd", bench.study.task.classes, bench.study.preprocess)
    desk.before = [lacking] * 99
    bench.conduct(phase)
    assert [event["site"] for event in bench.events("site-left-out")] == ["hospital-b"]
    assert bench.events("rejected")[0]["cause"] == "the slices are not kept here"
    assert len(desk.asked) < 40


def test_a_round_that_is_over_is_asked_by_nobody(make_bench: Make) -> None:
    bench = make_bench(answers={"rounds": 2})
    bench.conduct("train", number=0)
    bench.conduct("train", number=1)
    with pytest.raises(
        InputError, match=r"hospital-a, hospital-b, .* trained on since, .* as it was in round 0 any more"
    ):
        bench.conduct("collect", number=0)
    for number in (-1, 2):
        with pytest.raises(InputError, match=f"the study asks in 2 rounds, and round {number} is none of them"):
            bench.conduct("collect", number=number)


def test_the_coordinator_makes_no_variation_itself() -> None:
    """torch, which draws them, takes seconds and hundreds of MiB to import."""
    code = "import sys, server.collect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rounds_are_kept_apart(make_bench: Make) -> None:
    bench = make_bench(answers={"rounds": 2})
    with pytest.raises(InputError, match="0 teachers have trained long enough"):
        bench.conduct("collect", number=0)
    for number in range(2):
        for desk in bench.desks.values():
            desk.weights = f"{desk.name}'s weights of round {number}"
        bench.conduct("train", "collect", number=number)
    cache = lead_slices(bench.study, bench.run.folder)
    for number, epochs in ((0, 3), (1, 5)):
        store = open_store(bench.study, bench.run.folder, cache, number)
        cards = [store.card(site) for site in SITES]
        assert {card.epochs for card in cards} == {epochs}
        assert [card.weights_hash for card in cards] == [f"{site}'s weights of round {number}" for site in SITES]
        assert not any(store.missing(site, 4, DEFAULT) for site in SITES)
    shards = [body for action, body in bench.desks["hospital-a"].asked if action == "answer"]
    assert [named(body) for body in shards] == [False] * 4 + [True] * 4, "slices travel in the first round alone"
