"""The report is made of whatever a run holds, says so when scans are synthetic, and needs nothing beside itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from distill.records import evaluations
from distill.report import _on_masks, write_report
from distill.report_cost import costs
from distill.report_figures import curves, dots
from distill.report_tables import cell, pooled
from imaging.errors import InputError
from study.plan import Averaging
from study.run import create_or_resume, read_study_of
from study.student import write_card
from study.wire import EvaluateReply
from tests.distill.finished_run import SITES, amtkd_study, case, finished_run, student


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished_run(tmp_path)


def test_figures_of_a_student_that_was_trained_anew_are_left_out(run: Path) -> None:
    assert set(evaluations(run)) == {"amtkd", "supervised"}
    write_card(run / "distill" / "amtkd", student("amtkd").model_copy(update={"weights_hash": "c" * 64}))
    assert set(evaluations(run)) == {"supervised"}
    assert "without figures here: amtkd" in write_report(run).read_text(encoding="utf-8")
    (run / "distill" / "supervised" / "student.json").unlink()
    assert evaluations(run) == {}


def test_the_report_holds_the_figures_of_the_run(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "0.700 ± 0.000" in page  # amtkd at hospital-a
    assert "0.510 ± 0.000" not in page
    assert "0.500 ± 0.014" in page  # supervised at hospital-b, spread over cases
    assert "0.123" in page  # the teacher of hospital-a abroad
    assert "2.5 MB" in page
    assert "1 min 1 s" in page
    assert "silent for 5 s" in page
    assert page.count("data:image/png;base64,") == 2
    assert page.count("<br><small>2 cases</small></th>") == len(SITES)


def test_a_site_without_figures_of_one_student_takes_no_colour_from_the_others() -> None:
    both, one = {"a": [0.5, 0.6], "b": [0.7, 0.8]}, {"b": [0.9, 1.0]}
    names = re.compile(">(supervised|amtkd)</text>")
    for groups in ({"supervised": both, "amtkd": one}, {"supervised": one, "amtkd": both}):
        assert sorted(names.findall(dots(groups, xlabel="Dice", title="t"))) == ["amtkd", "supervised"]


def test_only_weights_that_differ_from_slice_to_slice_are_drawn(run: Path) -> None:
    assert ">slices</text>" in write_report(run).read_text(encoding="utf-8")
    path = run / "distill" / "amtkd" / "weights.json"
    path.write_text(json.dumps({"sites": list(SITES), "weights": [[0.0, 1.0, 0.0]] * 4}), encoding="utf-8")
    assert ">slices</text>" not in write_report(run).read_text(encoding="utf-8")


def test_many_students_are_told_apart_by_their_names_and_lines() -> None:
    names = [f"student-{n}" for n in range(12)]
    found = dots({name: {"a": [0.5, 0.6]} for name in names}, xlabel="Dice", title="t")
    assert all(found.count(f">{name}</text>") == 1 for name in names)
    drawn = curves([(name, [0, 1], [0.1, 0.2]) for name in names], xlabel="x", ylabel="y", title="t")
    assert all(drawn.count(f">{name}</text>") == 1 for name in names)
    assert "stroke-dasharray" in drawn, "two lines of one colour are drawn differently"


def test_synthetic_scans_are_labelled(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "Synthetic scans." in page
    assert "hospital-a, hospital-b, hospital-c and the student" in page


def test_the_report_stands_alone(run: Path) -> None:
    """No script, style, font or picture from elsewhere: it is mailed, and opened behind hospital walls."""
    page = write_report(run).read_text(encoding="utf-8")
    addresses = set(re.findall(r"(?:src|href)=[\"']([^\"'#]+)", page))
    assert all(address.startswith("data:") for address in addresses)
    assert "<script" not in page


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    create_or_resume(tmp_path, amtkd_study())
    assert "no student has been evaluated yet" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study\.json"):
        write_report(tmp_path)


def test_an_undefined_metric_is_left_out_of_its_mean_only() -> None:
    found = cell([case(0.5, None), case(0.7, 4.0)])
    assert (found.dice, found.hd95) == ("0.600 ± 0.141", "4.0 mm (1 of 2)")
    assert cell([]).dice == "–"


def test_every_site_counts_alike_in_the_mean_over_sites() -> None:
    assert pooled([[case(0.9)] * 5, [case(0.5)]]).dice == "0.700"


def test_a_student_worse_than_one_trained_alone_is_not_hidden(run: Path) -> None:
    assert "does worse" not in write_report(run).read_text(encoding="utf-8")
    for site in SITES:
        path = run / "evaluation" / "amtkd" / f"{site}.json"
        reply = EvaluateReply.model_validate_json(path.read_text(encoding="utf-8"))
        path.write_text(reply.model_copy(update={"test": [case(0.0, None)] * 2}).model_dump_json(), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert "amtkd does worse than the same student trained alone (mean test Dice 0.000 against 0.500)" in page
    assert "HD95 – (0 of 2)" in page


def test_what_each_way_cost_and_revealed_stands_beside_its_dice(run: Path) -> None:
    assert "What each way cost" not in write_report(run).read_text(encoding="utf-8")
    averaging = Averaging(strategies=["fedavg"], local=True, pooled=True)
    study = read_study_of(run).model_copy(update={"averaging": averaging})
    purposes = {"teach": (20, 1e3, 2e3), "answer": (4, 5e6, 7e6), "fedavg": (10, 8e6, 9e6)}
    counted = {name: dict(zip(("messages", "sent", "received"), row, strict=True)) for name, row in purposes.items()}
    one = {"hospital-a": [case(0.6), case(0.8)]}
    cases = {"amtkd": one, "fedavg": {"hospital-a": [case(0.5)]}, "pooled": one}
    alone = {"local-hospital-a": one, "local-hospital-b": {"hospital-a": [case(0.3)]}}
    table = [
        (cost.students, cost.dice, cost.messages, cost.sent, cost.received)
        for cost in costs(study, {"hospital-a": {"for": counted}, "hospital-b": {}}, cases, alone)
    ]
    assert table == [
        ("amtkd", "0.700", "24", "5.0 MB", "7.0 MB"),
        ("fedavg", "0.500", "10", "8.0 MB", "9.0 MB"),
        ("local, mean", "0.500", "–", "–", "–"),
        ("pooled", "0.700", "–", "–", "–"),
    ]


def test_the_loss_on_masks_of_every_scheme_is_drawn() -> None:
    assert _on_masks({"dice": 0.5, "lovasz": 0.25, "kl": 8.0}) == 0.75
    assert _on_masks({"dice": 0.5, "focal": 0.25, "patch": 8.0}) == 0.75
    assert _on_masks({"y": 0.75, "ds": 8.0, "kl_enc": 8.0}) == 0.75, "of DSD"
