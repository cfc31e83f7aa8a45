"""The student's weights go round: weighted by slices, by Flower's strategies, and no finished round a second time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from imaging.atomic import write_bytes
from imaging.errors import InputError
from server.evaluate import students
from server.strategies import Average, flower
from study.averaging_table import Averaging
from study.baselines import START, Start
from study.student import read_card
from study.wire import Arrays, Failure, pack
from tests.server.loopback import SITES, LostError, failing, pause

Make = Callable[..., Any]
SENT: Arrays = {
    "conv.weight": np.arange(15, dtype=np.float32).reshape(3, 5) / 100,
    "norm.running_var": np.ones(3, np.float32),
    "norm.num_batches_tracked": np.array(7, np.int64),
}
MEAN = (10 * 1 + 20 * 2 + 30 * 3) / 60
"""What a round of the three desks adds."""


@pytest.fixture
def averaging(make_bench: Make, tmp_path: Path) -> Make:
    """Makes benches of a study that averages; the student they begin with is there."""
    write_bytes(tmp_path / "run" / START, pack(Start(learned=["conv.weight"], parameters=15), SENT))

    def make(*strategies: str, min_sites: int = 3, patience_s: float = 20.0, **settings: Any) -> Any:
        table = {"strategies": list(strategies), "rounds": 3, "steps": 10, **settings}
        return make_bench(averaging=table, min_sites=min_sites, patience_s=patience_s)

    return make


def student(bench: Any, label: str) -> dict[str, Any]:
    return dict(load_file(bench.run.folder / "distill" / label / "student.safetensors"))


def test_weights_are_averaged_by_slices_and_become_a_finished_student(averaging: Make) -> None:
    bench = averaging("fedavg")
    bench.conduct("average")
    assert bench.desks["hospital-b"].labels() == [("fedavg", 0, 3), ("fedavg", 3, 6), ("fedavg", 6, 10)]
    found = student(bench, "fedavg")
    np.testing.assert_allclose(found["conv.weight"], SENT["conv.weight"] + 3 * MEAN, rtol=1e-6)
    np.testing.assert_allclose(found["norm.running_var"], SENT["norm.running_var"] + 3 * MEAN, rtol=1e-6)
    assert found["norm.num_batches_tracked"] == 7 + 3 * round(MEAN)
    assert {name: array.dtype for name, array in found.items()} == {name: array.dtype for name, array in SENT.items()}
    card = read_card(bench.run.folder / "distill" / "fedavg")
    assert card is not None
    assert (card.steps, card.parameters, card.seconds, len(card.history)) == (10, 15, 9.0, 3)
    (listed,) = students(bench.run.folder)
    assert (listed.label, listed.weights_hash) == ("fedavg", card.weights_hash)
    assert card.history[0].terms["dice"] == pytest.approx(0.5 * MEAN)


@pytest.mark.usefixtures("make_bench")  # Flower's messages want to know of what run they are
def test_fedadam_steps_as_its_paper_says_and_averages_batch_norms_statistics() -> None:
    average = Average(flower("fedadam", Averaging(server_lr=0.1)), SENT, ["conv.weight"])
    m, v, expected = 0.0, 0.0, SENT["conv.weight"].astype(np.float64)
    for number in (1, 2):
        sites = [({name: array + place for name, array in average.weights.items()}, 1) for place in (1, 2)]
        average.close(number, sites)
        m, v = 0.9 * m + 0.1 * 1.5, 0.99 * v + 0.01 * 1.5**2
        step = 0.1 * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))  # Flower counts rounds from 1
        expected = expected + step * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(average.weights["conv.weight"], expected, rtol=1e-5)
    np.testing.assert_allclose(average.weights["norm.running_var"], SENT["norm.running_var"] + 3.0)


@pytest.mark.parametrize("label", ["fedavg", "fedadam"])
def test_a_stopped_phase_repeats_no_finished_round(averaging: Make, make_bench: Make, label: str) -> None:
    bench = averaging(label)
    bench.desks["hospital-a"].before = [lambda *_: None] * 2 + [failing(RuntimeError("killed"))] * 9
    with pytest.raises(InputError, match="hospital-a"):
        bench.conduct("average")
    again = averaging(label)
    again.conduct("average")
    assert again.desks["hospital-a"].labels() == [(label, 6, 10)]
    whole = Average(flower(label, again.study.averaging), SENT, ["conv.weight"])
    for number in (1, 2, 3):
        sites = [({n: (a + k).astype(a.dtype) for n, a in whole.weights.items()}, 10 * k) for k in (1, 2, 3)]
        whole.close(number, sites)
    np.testing.assert_array_equal(student(again, label)["conv.weight"], whole.weights["conv.weight"])
    last = averaging(label)
    last.conduct("average")
    assert [desk.asked for desk in last.desks.values()] == [[], [], []]


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda reply, arrays: arrays["conv.weight"].fill(np.nan), "array `conv.weight` holds NaN"),
        (lambda reply, arrays: arrays.pop("norm.running_var"), "array `norm.running_var` is missing"),
        (lambda reply, arrays: arrays.update(scan=np.zeros(3)), "hold `scan`, which was not asked for"),
        (lambda reply, arrays: reply.__dict__.update(sent="0"), "from the same weights"),
    ],
)
def test_weights_that_do_not_fit_are_rejected_by_name_and_cost_that_reply_only(
    averaging: Make, spoil: Callable[..., Any], cause: str
) -> None:
    bench = averaging("fedavg")
    desk = bench.desks["hospital-b"]

    def spoiled(action: str, body: bytes) -> bytes:
        reply, arrays = desk.averaged(body)
        spoil(reply, arrays)
        return pack(reply, arrays)

    desk.before = [spoiled]
    bench.conduct("average")
    (rejected,) = bench.events("rejected")
    assert rejected["site"] == "hospital-b"
    assert cause in rejected["cause"]
    np.testing.assert_allclose(student(bench, "fedavg")["conv.weight"], SENT["conv.weight"] + 3 * MEAN, rtol=1e-6)


def test_a_site_whose_policy_refuses_is_left_out_of_the_average(averaging: Make) -> None:
    bench = averaging("fedprox", min_sites=2)
    refusal = Failure(cause="this site's policy lets no weights leave", site="hospital-c", remedy="ask")
    bench.desks["hospital-c"].before = [lambda *_: pack(refusal)] * 9
    bench.conduct("average")
    assert [event["site"] for event in bench.events("site-left-out")] == ["hospital-c"]
    expected = SENT["conv.weight"] + 3 * (10 * 1 + 20 * 2) / 30
    np.testing.assert_allclose(student(bench, "fedprox")["conv.weight"], expected, rtol=1e-6)


def test_a_site_that_waited_for_a_dead_one_has_not_been_silent(averaging: Make) -> None:
    bench = averaging("fedavg", min_sites=2, patience_s=1.5)
    bench.desks["hospital-c"].before = [failing(LostError())] * 9
    for site in ("hospital-a", "hospital-b"):
        bench.desks[site].before = [pause(0.0), pause(0.8), pause(0.8)]
    bench.conduct("average")
    assert [event["site"] for event in bench.events("site-left-out")] == ["hospital-c"]


def test_a_site_cannot_count_for_more_than_its_teachers_card_tells(averaging: Make) -> None:
    bench = averaging("fedavg")
    bench.conduct("train")
    desk = bench.desks["hospital-b"]
    reply = lambda _, body: pack(desk.averaged(body)[0].model_copy(update={"slices": 10**12}), desk.averaged(body)[1])  # noqa: E731
    desk.before = [reply]
    bench.conduct("average")
    assert "tells of 1000000000000 training slices, its teacher's card of 50" in bench.events("rejected")[0]["cause"]


def test_of_a_student_trained_at_one_site_alone_no_weights_come_back(averaging: Make) -> None:
    bench = averaging(local=True)
    desk = bench.desks["hospital-a"]
    desk.before = [lambda _, body: pack(desk.averaged(body)[0], SENT)]
    bench.conduct("average")
    assert desk.labels() == [("local", 0, 3), ("local", 0, 3), ("local", 0, 6), ("local", 0, 10)]
    assert "which was not asked for" in bench.events("rejected")[0]["cause"]
    assert students(bench.run.folder) == []


def test_other_settings_are_refused_with_what_differs(averaging: Make) -> None:
    averaging("fedprox").conduct("average")
    with pytest.raises(InputError, match=r"other settings is there: fedprox; differing: mu; remove .*fedprox"):
        averaging("fedprox", mu=0.5).conduct("average")


def test_a_damaged_state_is_told_with_its_remedy(averaging: Make) -> None:
    bench = averaging("fedavg")
    (bench.run.folder / START.parent / "fedavg.safetensors").write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"fedavg\.safetensors: is damaged .*; remove .*averaging to average anew"):
        bench.conduct("average")


def test_bytes_are_counted_for_every_strategy(averaging: Make) -> None:
    bench = averaging("fedavg", "fedprox", local=True)
    bench.conduct("average")
    traffic = json.loads((bench.run.folder / "traffic.json").read_text(encoding="utf-8"))
    for site in SITES:
        messages = {purpose: found["messages"] for purpose, found in traffic[site]["for"].items()}
        assert messages == {"fedavg": 3, "fedprox": 3, "local": 3}
        assert traffic[site]["for"]["local"]["received"] < traffic[site]["for"]["fedavg"]["received"]
