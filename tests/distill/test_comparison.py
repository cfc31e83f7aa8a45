"""Comparisons over seeds: what pairs, what is told apart, and what is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from distill.comparison import Difference, Trainings, differences, holm, ranks, resampled
from distill.comparison_tables import markdown, write
from imaging.errors import InputError
from preceptor import main
from study.run import MIXTURE
from study.student import write_card
from study.wire import CaseMetrics, EvaluateReply
from tests.distill.finished_run import SITES as SITES_OF_RUN
from tests.distill.finished_run import case as made_up
from tests.distill.finished_run import finished_run, student

SITES = ("a", "b", "c")


def case(dice: float | None) -> CaseMetrics:
    metrics = {"dice": dice, "iou": 0.5, "voe": 0.5, "hd95": 1.0, "assd": 1.0}
    return CaseMetrics.model_validate({"metrics": {name: {"organ": value} for name, value in metrics.items()}})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "run")


def crossed(run: Path) -> None:
    """Teachers of Dice 0.6 and a mixture of 0.8, at every site."""
    rows = [
        {"network": network, "site": site, "split": "test", "cases": [made_up(dice).model_dump()]}
        for network, dice in ((*((site, 0.6) for site in SITES_OF_RUN), (MIXTURE, 0.8)))
        for site in SITES_OF_RUN
    ]
    (run / "cross.json").write_text(json.dumps(rows))


def made(gains: dict[str, float], *, runs: int = 3, patients: int = 5, noise: float = 0.02) -> Trainings:
    """Trainings whose Dice is that of each patient's own difficulty, a gain, and noise of their own."""
    draw = np.random.default_rng(0)
    hard = draw.uniform(0.3, 0.7, (runs, len(SITES), patients))
    cases = {
        label: [
            {
                site: [
                    case(float(np.clip(hard[r, s, p] + gain + noise * draw.normal(), 0, 1))) for p in range(patients)
                ]
                for s, site in enumerate(SITES)
            }
            for r in range(runs)
        ]
        for label, gain in gains.items()
    }
    return Trainings(tuple(Path(str(r)) for r in range(runs)), tuple(gains), cases)


def test_a_small_gain_shows_when_patients_are_paired_and_none_is_made_up() -> None:
    found = differences(made({"alone": 0.0, "same": 0.0, "better": 0.05, "worse": -0.05}), "alone")
    assert [one.label for one in found] == ["same", "better", "worse"]
    assert [one.verdict for one in found] == ["cannot be told apart", "better", "worse"]
    better = found[1]
    for low, high in (better.over_patients or (1.0, 1.0), better.over_runs or (1.0, 1.0)):
        assert low < 0.05 < high
        assert low < better.mean < high
    assert better.p_holm >= better.p


def test_what_trainings_vary_by_is_no_difference_of_schemes() -> None:
    """Every patient of a run gains alike, but the runs disagree: three students each, not a hundred patients."""
    trainings = made({"alone": 0.0, "other": 0.0}, patients=30, noise=0.001)
    for run, gain in zip(trainings.cases["other"], (0.05, 0.04, -0.03), strict=True):
        for site, cases in run.items():
            run[site] = [case((one.metrics["dice"]["organ"] or 0) + gain) for one in cases]  # type: ignore[index]
    [found] = differences(trainings, "alone")
    assert found.p_holm < 0.01
    assert found.over_patients
    assert found.over_patients[0] > 0
    assert found.verdict == "cannot be told apart"
    assert 0.6 < ranks(trainings)["other"]["first"] < 0.95, "a draw of the third run alone ranks otherwise"


def test_an_interval_over_few_patients_holds_the_truth_about_as_often_as_it_says() -> None:
    draws, held = np.random.default_rng(0), 0
    for _ in range(300):
        low, high = np.quantile(resampled(draws.normal(size=9), np.repeat([0, 1, 2], 3), seed=0), [0.025, 0.975])
        held += low <= 0 <= high
    assert held >= 0.9 * 300


def test_one_patient_a_site_has_no_interval_over_patients() -> None:
    [several] = differences(made({"alone": 0.0, "other": 0.1}, patients=1), "alone")
    assert several.over_patients is None
    assert several.over_runs
    [one] = differences(made({"alone": 0.0, "other": 0.1}, runs=1, patients=1), "alone")
    assert (one.over_patients, one.over_runs, one.verdict) == (None, None, "cannot be told apart")


def test_two_that_are_the_same_do_not_differ() -> None:
    trainings = made({"alone": 0.0})
    twice = Trainings(trainings.runs, ("alone", "again"), {**trainings.cases, "again": trainings.cases["alone"]})
    assert differences(twice, "alone") == [Difference("again", "alone", 0.0, (0.0, 0.0), (0.0, 0.0), 1.0, 1.0)]


def test_every_site_counts_alike_however_many_patients_it_has() -> None:
    uneven = {"a": [case(1.0)], "b": [case(0.0)] * 9}
    trainings = Trainings((Path("0"),), ("x",), {"x": [uneven]})
    assert trainings.figures("x", "dice").tolist() == [0.5]
    assert resampled(trainings.patients("x"), trainings.strata(), seed=0, draws=7) == pytest.approx(0.5)


def test_a_patient_without_a_defined_dice_counts_for_nothing() -> None:
    trainings = made({"alone": 0.0, "better": 0.1})
    for label in trainings.labels:
        trainings.cases[label][0]["a"][0] = case(None)  # type: ignore[index]
    [gain] = differences(trainings, "alone")
    assert gain.verdict == "better"


def test_ranks_are_as_firm_as_the_data() -> None:
    firm = ranks(made({"low": 0.0, "high": 0.2}))
    assert (firm["high"]["rank"], firm["high"]["first"]) == (1.0, 1.0)
    assert firm["low"] == {"rank": 2.0, "lowest": 2.0, "highest": 2.0, "first": 0.0}
    single = made({"low": 0.0, "high": 0.2}, runs=1, patients=1)
    assert ranks(single) == {"low": {"rank": 2.0}, "high": {"rank": 1.0}}
    loose = ranks(made({"one": 0.0, "two": 0.0}, noise=0.2))
    assert 0.02 < loose["one"]["first"] < 0.98


def test_holm_worked_and_never_below_what_it_corrects() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    ps = np.random.default_rng(0).uniform(size=7)
    assert all(after >= before for before, after in zip(false_discovery_control(ps), holm(list(ps)), strict=True))


def test_tables_are_made_of_finished_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tables", str(run), "--out", str(tmp_path / "out")])
    assert not ended.value.code
    page = capsys.readouterr().out
    assert page == (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "phantoms (synthetic scans)" in page
    assert "| amtkd | 0.700 |" in page
    assert "| amtkd | +0.200 |" in page
    assert "<svg" in (tmp_path / "out" / "comparison.svg").read_text(encoding="utf-8")
    told = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert told["figures"]["amtkd"]["dice"] == pytest.approx([0.7])
    assert told["ranks"]["amtkd"]["rank"] == 1


def test_a_student_who_found_nothing_has_no_distance(run: Path, tmp_path: Path) -> None:
    for site in SITES_OF_RUN:
        path = run / "evaluation" / "amtkd" / f"{site}.json"
        reply = EvaluateReply.model_validate_json(path.read_text(encoding="utf-8"))
        nothing = made_up(0.0, None)
        path.write_text(reply.model_copy(update={"test": [nothing] * 2}).model_dump_json(), encoding="utf-8")
    trainings = Trainings.read([run])
    assert "| amtkd | 0.000 | – (0 of 6) |" in markdown(trainings, "supervised")
    write(trainings, "supervised", tmp_path)
    told = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert told["figures"]["amtkd"]["hd95"] == [None]


def test_students_that_were_not_trained_or_evaluated_in_every_run_are_named(run: Path) -> None:
    shutil.copytree(run / "distill" / "amtkd", run / "distill" / "later")
    page = markdown(Trainings.read([run]), "supervised")
    assert (
        "Not trained or not evaluated in every run, and so left out: mono-teacher, uniform, later; `preceptor simulate"
        in page
    )
    assert ": 1 run, " in page


def test_patients_that_changed_between_two_evaluations_are_not_paired(run: Path) -> None:
    path = run / "evaluation" / "amtkd" / f"{SITES_OF_RUN[1]}.json"
    reply = EvaluateReply.model_validate_json(path.read_text(encoding="utf-8"))
    path.write_text(reply.model_copy(update={"cases": "others"}).model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match=f"the patients of {SITES_OF_RUN[1]} changed"):
        Trainings.read([run])


def test_a_teacher_stands_beside_the_student_it_alone_has_taught(run: Path) -> None:
    label = f"only-{SITES_OF_RUN[0]}"
    shutil.copytree(run / "distill" / "amtkd", run / "distill" / label)
    shutil.copytree(run / "evaluation" / "amtkd", run / "evaluation" / label)
    crossed(run)
    page = markdown(Trainings.read([run]), "supervised")
    assert f"| {label} | 0.600 / 0.500 | 0.700 / 0.500 |" in page
    assert "| supervised | 0.500 / 0.500 |" not in page
    assert "| supervised | 0.500 | -0.300 |" in page, "the distance to all teachers"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["--label", "kd"],
            "has the sites evaluate what was trained in that run since (evaluated everywhere: amtkd, supervised)",
        ),
        (["--reference", "kd"], "`kd` was not evaluated at every site of every run; name one of"),
        (["--split", "val"], "no validation patient"),
        (["RUN"], "two runs have one seed"),
    ],
)
def test_what_cannot_be_compared_is_told(
    words: list[str], error: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tables", str(run), *(str(run) if word == "RUN" else word for word in words)])
    assert ended.value.code == 1
    assert error in capsys.readouterr().err


def test_networks_stand_side_by_side_and_are_not_ranked_together(run: Path) -> None:
    for label in ("supervised", "amtkd"):
        shutil.copytree(run / "distill" / label, run / "distill" / f"{label}-enet")
        shutil.copytree(run / "evaluation" / label, run / "evaluation" / f"{label}-enet")
        write_card(run / "distill" / f"{label}-enet", student(label).model_copy(update={"model": "enet"}))
        for path in (run / "evaluation" / f"{label}-enet").iterdir():
            path.write_text(path.read_text().replace(f'"{label}"', f'"{label}-enet"'))
    crossed(run)
    trainings = Trainings.read([run])
    page = markdown(trainings, "supervised")
    assert "| training | teacher itself | espnet | enet |" in page
    assert "| amtkd |  | 0.700 / 0.500 | 0.700 / 0.500 |" in page
    assert "| *teacher of hospital-a* | 0.600 |" in page
    assert "| *all teachers, mean of their probabilities* | 0.800 |" in page
    first, second = page.split("### enet")
    assert "| amtkd | +0.200 |" in first
    assert "| amtkd-enet |" not in first
    assert "| amtkd-enet | +0.200 |" in second
    assert [(set(one.labels), own) for one, own in trainings.by_network("supervised")] == [
        ({"amtkd", "supervised"}, "supervised"),
        ({"amtkd-enet", "supervised-enet"}, "supervised-enet"),
    ]
    assert Trainings.read([run], labels=["amtkd"]).teachers[MIXTURE]
