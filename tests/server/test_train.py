"""Teachers are trained round after round; what is lost, late, broken or foreign costs what it must and no more."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from client import app
from imaging.errors import InputError
from server import exchange
from study.cards import read_card, write_card
from study.wire import Failure, TeachRequest, pack, unpack
from tests.server.loopback import SITES, LostError, failing, pause

Make = Callable[..., Any]


def test_every_teacher_is_trained_to_its_end_in_rounds(make_bench: Make) -> None:
    bench = make_bench()
    bench.desks["hospital-b"].last_epoch = 3  # early stopping
    bench.conduct("train")
    cards = [bench.card(site) for site in SITES]
    assert [(card.epochs, card.finished) for card in cards] == [(5, True), (3, True), (5, True)]
    assert bench.desks["hospital-a"].labels() == [2, 4, 5]
    assert bench.desks["hospital-b"].labels() in ([2, 4], [2, 4, 5]), "one more may be under way"
    (ended,) = bench.events("phase-ended")
    assert (ended["phase"], ended["fault"]) == ("train", None)


def test_a_teacher_is_trained_as_far_as_a_round_of_answers_wants_it(make_bench: Make) -> None:
    bench = make_bench(answers={"rounds": 2})
    bench.desks["hospital-b"].last_epoch = 2  # early stopping
    bench.conduct("train", number=0)
    assert [bench.card(site).epochs for site in SITES] == [3, 2, 3]
    bench.conduct("train", number=0)
    assert bench.desks["hospital-a"].labels() == [2, 3]
    bench.conduct("train", number=1)
    assert [(bench.card(site).epochs, bench.card(site).finished) for site in SITES] == [(5, True), (2, True), (5, True)]
    assert bench.desks["hospital-a"].labels() == [2, 3, 4, 5]


def test_a_phase_that_somebody_stops_has_not_ended_well(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench()

    def stop(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr("server.app.Exchange.complete", stop)
    with pytest.raises(SystemExit):
        bench.conduct("train")
    (ended,) = bench.events("phase-ended")
    assert ended["fault"]["cause"] == "phase train was stopped"


def test_a_teacher_that_came_ready_takes_the_place_of_a_training_that_had_begun(make_bench: Make) -> None:
    bench = make_bench()
    desk = bench.desks["hospital-a"]
    ready = {"model": "onnx", "epochs": 0, "finished": True, "history": []}

    def reply(action: str, body: bytes) -> bytes:
        return pack(desk.card(unpack(body, TeachRequest)[0], **ready))

    desk.before = [lambda *_: None, reply, reply]  # the first round trained it
    bench.conduct("train")
    assert (bench.card("hospital-a").model, bench.card("hospital-a").finished) == ("onnx", True)
    assert len(desk.labels()) <= 3, "one more may be under way"


def test_no_site_waits_for_another(make_bench: Make) -> None:
    bench, others = make_bench(), threading.Event()
    quick = bench.desks["hospital-a"]

    def wait_for_others(action: str, body: bytes) -> None:
        assert others.wait(10), "hospital-a was not asked on while hospital-c worked"

    def tell(action: str, body: bytes) -> None:
        others.set()

    bench.desks["hospital-c"].before = [wait_for_others]
    quick.before = [lambda *_: None, lambda *_: None, tell]  # its third round
    bench.conduct("train")
    assert quick.epochs == 5


def test_a_stopped_phase_goes_on_where_the_cards_say(make_bench: Make) -> None:
    bench = make_bench(min_sites=3)
    bench.desks["hospital-a"].before = [lambda *_: None] + [failing(RuntimeError("no memory left"))] * 9
    with pytest.raises(InputError, match="hospital-a"):
        bench.conduct("train")
    assert bench.card("hospital-a").epochs == 2

    again = make_bench(min_sites=3)
    again.desks["hospital-a"].epochs = 2
    again.conduct("train")
    assert again.desks["hospital-a"].labels() == [4, 5]
    assert all(again.card(site).finished for site in SITES)


def test_a_finished_teacher_is_asked_nothing_more(make_bench: Make) -> None:
    make_bench().conduct("train")
    again = make_bench()
    again.conduct("train")
    assert [desk.asked for desk in again.desks.values()] == [[], [], []]


def test_a_lost_message_is_sent_again_and_counts_once(make_bench: Make) -> None:
    bench = make_bench(resend_s=0.2)
    bench.desks["hospital-b"].before = [failing(LostError())]
    bench.conduct("train")
    assert bench.desks["hospital-b"].labels().count(2) == 2
    assert bench.events("sent-again")[0]["site"] == "hospital-b"
    told = [event["epoch"] for event in bench.events("taught") if event["site"] == "hospital-b"]
    assert told == sorted(set(told))
    assert told[-1] == 5


def test_a_late_reply_does_not_set_a_card_back(make_bench: Make) -> None:
    bench = make_bench()
    bench.conduct("train")
    finished = bench.card("hospital-a")
    from server.train import Training

    late = finished.model_copy(update={"epochs": 2, "finished": False})
    Training(bench.study, bench.run, 0).take("hospital-a", 2, pack(late))
    assert bench.card("hospital-a") == finished


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"site": "hospital-c"}, "the card of hospital-c came from hospital-b"),
        ({"fingerprint": "0123456789ab"}, "0123456789ab"),
        (
            {"model": "enet"},
            "its teacher is enet {'encoder': 'resnet18'}, asked was deeplabv3plus {'encoder': 'resnet18'}",
        ),
        ({"epochs": 1, "finished": False}, "trained to epoch 1, asked was epoch 2"),
    ],
)
def test_a_card_that_does_not_fit_costs_that_reply_only(make_bench: Make, changes: dict[str, Any], cause: str) -> None:
    bench = make_bench()
    desk = bench.desks["hospital-b"]
    desk.before = [lambda _, body: pack(desk.card(unpack(body, TeachRequest)[0], **changes))]
    bench.conduct("train")
    (rejected,) = bench.events("rejected")
    assert rejected["site"] == "hospital-b"
    assert cause in rejected["cause"]
    assert bench.card("hospital-b").finished


def test_a_site_that_fails_again_and_again_is_left_out(make_bench: Make) -> None:
    bench = make_bench()
    failure = Failure(cause="no case has a mask", site="hospital-c", remedy="export the masks")
    bench.desks["hospital-c"].before = [lambda *_: pack(failure)] * 99
    bench.conduct("train")
    (left_out,) = bench.events("site-left-out")
    assert left_out["site"] == "hospital-c"
    assert "no case has a mask" in left_out["cause"]
    assert left_out["remedy"] == "export the masks"
    assert [e["attempt"] for e in bench.events("rejected") if e["message"] == "training to epoch 2"] == [1, 2, 3]
    assert [read_card(bench.run.folder, site) is not None for site in SITES] == [True, True, False]


def test_too_few_sites_stop_the_run_with_cause_site_and_remedy(make_bench: Make) -> None:
    bench = make_bench(min_sites=3)
    failure = Failure(cause="no case has a mask", site="hospital-c", remedy="export the masks")
    bench.desks["hospital-c"].before = [lambda *_: pack(failure)] * 99
    with pytest.raises(InputError) as caught:
        bench.conduct("train")
    assert "no case has a mask" in caught.value.what
    assert "2 sites are left, `federation.min_sites` asks for 3" in caught.value.what
    assert (caught.value.where, caught.value.fix) == ("site hospital-c", "export the masks")
    (ended,) = bench.events("phase-ended")
    assert ended["fault"] == {"cause": caught.value.what, "where": "site hospital-c", "remedy": "export the masks"}


def test_teachers_that_have_finished_count_as_sites_that_are_left(make_bench: Make) -> None:
    bench = make_bench()
    bench.conduct("train")
    card = bench.card("hospital-c")
    write_card(bench.run.folder, card.model_copy(update={"epochs": 2, "finished": False}))
    again = make_bench()
    again.desks["hospital-c"].before = [failing(RuntimeError("gone"))] * 99
    again.conduct("train")
    assert [event["site"] for event in again.events("site-left-out")] == ["hospital-c"]


def test_a_silent_site_is_left_out_when_patience_ends(make_bench: Make) -> None:
    bench = make_bench(patience_s=0.6, resend_s=0.2)
    bench.desks["hospital-a"].before = [failing(LostError())] * 99
    bench.conduct("train")
    (left_out,) = bench.events("site-left-out")
    assert left_out["site"] == "hospital-a"
    assert "silent for 1 s" in left_out["cause"]


def test_a_slow_site_that_keeps_answering_is_not_silent(make_bench: Make) -> None:
    bench = make_bench(patience_s=0.6, resend_s=0.5)
    bench.desks["hospital-a"].before = [pause(0.4)] * 3
    bench.conduct("train")
    assert bench.events("site-left-out") == []


def test_a_node_that_never_connects_is_left_out_before_anything_is_asked(make_bench: Make) -> None:
    bench = make_bench(patience_s=0.3)
    bench.grid.offline = {"hospital-b"}
    for site in ("hospital-a", "hospital-c"):  # what was waited for another does not count as their silence
        bench.desks[site].before = [pause(0.1)]
    bench.conduct("train")
    (left_out,) = bench.events("site-left-out")
    assert left_out["site"] == "hospital-b"
    assert "did not connect" in left_out["cause"]


def test_a_node_that_drops_out_and_returns_is_asked_again(make_bench: Make) -> None:
    bench = make_bench()
    desk = bench.desks["hospital-b"]

    def drop_out(action: str, body: bytes) -> None:
        bench.grid.offline = {"hospital-b"}
        threading.Timer(0.4, bench.grid.offline.clear).start()

    desk.before = [drop_out]
    bench.conduct("train")
    assert bench.card("hospital-b").finished
    assert bench.events("rejected") == []


def service_away(*_: object) -> bytes:
    return app.failure("the site's service does not answer on its socket", "hospital-b", "start it", away=True)


def test_a_service_that_restarts_costs_its_site_nothing(make_bench: Make) -> None:
    bench = make_bench()
    bench.desks["hospital-b"].before = [service_away] * (exchange.TRIES + 2)
    bench.conduct("train")
    assert bench.card("hospital-b").finished
    assert (bench.events("rejected"), bench.events("site-left-out")) == ([], [])
    assert len(bench.events("away")) == exchange.TRIES + 2


def test_a_service_that_stays_away_is_silence(make_bench: Make) -> None:
    bench = make_bench(patience_s=0.6)
    bench.desks["hospital-b"].before = [service_away] * 9999
    bench.conduct("train")
    (left_out,) = bench.events("site-left-out")
    assert (left_out["site"], left_out["cause"]) == ("hospital-b", "it has been silent for 1 s")


def test_bytes_are_counted_over_both_ways_and_all_starts(make_bench: Make) -> None:
    benches = [make_bench(), make_bench()]
    benches[0].conduct("train", "collect")
    benches[1].conduct("train")
    traffic = json.loads((benches[0].run.folder / "traffic.json").read_text(encoding="utf-8"))
    for site, desk in benches[0].desks.items():
        counted = {
            "messages": len(desk.asked),
            "sent": sum(len(body) for _, body in desk.asked),
            "received": sum(len(body) for body in desk.sent),
        }
        purposes = traffic[site].pop("for")
        assert traffic[site] == counted
        assert list(purposes) == ["answer", "teach"]
        assert {key: sum(found[key] for found in purposes.values()) for key in counted} == counted


def test_a_phase_nobody_knows_is_refused(make_bench: Make) -> None:
    with pytest.raises(InputError, match="no phase is called `dream`"):
        make_bench().conduct("dream")
