"""What a comparison asks of a study before hours of work begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaging.errors import InputError
from preceptor import main
from server.compare_command import with_contents, with_students
from study.plan import read_study

ROOT = Path(__file__).resolve().parents[2]
PROSTATE = ROOT / "studies" / "prostate.toml"


def test_the_study_trains_exactly_the_students_that_are_compared() -> None:
    study = read_study(PROSTATE)
    kept = with_students(study, ["supervised", "amtkd", "kd"], [], PROSTATE)
    assert (kept.distill.scheme, kept.distill.compare) == ("amtkd", ["supervised", "kd"])
    others = with_students(study, ["supervised", "kd"], [], PROSTATE)
    assert (others.distill.scheme, others.distill.compare) == ("kd", ["supervised"])
    assert others.hash() == study.hash()


def test_the_sites_are_asked_for_what_the_schemes_need_and_nothing_less() -> None:
    study = read_study(PROSTATE)
    few, many = (with_students(study, names, [], PROSTATE) for names in (["supervised", "kd"], ["cirkd", "skd"]))
    assert with_contents(few, PROSTATE).answers.contents == study.answers.contents
    more = with_contents(many, PROSTATE)
    assert set(more.answers.contents) == {*study.answers.contents, "features", "affinity"}
    assert more.hash() == study.hash()


def test_a_site_is_left_out_by_a_variant_of_the_studys_scheme() -> None:
    study = read_study(PROSTATE)
    plan = with_students(study, ["supervised"], ["hospital-b"], PROSTATE)
    assert plan.distill.students == ["supervised", "without-hospital-b"]
    student = plan.distill.of("without-hospital-b")
    assert (student.scheme, student.without) == ("amtkd", ["hospital-b"])
    with pytest.raises(InputError, match="no site is called `hospital-d`, did you mean `hospital-"):
        with_students(study, ["supervised"], ["hospital-d"], PROSTATE)


def test_an_unknown_scheme_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(PROSTATE), "--schemes", "kdd", "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_scheme_is_named_with_the_nearest(tmp_path: Path) -> None:
    from study.plan import check_rooms

    with pytest.raises(InputError, match="no scheme is called `kdd`, did you mean `kd`"):
        check_rooms(with_students(read_study(PROSTATE), ["kdd"], [], PROSTATE), schemes=["kd", "at"], phantoms={})
