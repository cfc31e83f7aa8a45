"""What a comparison asks of a study before hours of work begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imaging.errors import InputError
from preceptor import main
from server.compare_command import students, variants, with_contents, with_students
from study.plan import Study, read_study

ROOT = Path(__file__).resolve().parents[2]
PROSTATE = ROOT / "studies" / "prostate.toml"


def test_the_study_trains_exactly_the_students_that_are_compared() -> None:
    study = read_study(PROSTATE)
    kept = with_students(study, ["supervised", "consensus", "kd"], {}, PROSTATE)
    assert (kept.distill.scheme, kept.distill.compare) == ("consensus", ["supervised", "kd"])
    others = with_students(study, ["supervised", "kd"], {}, PROSTATE)
    assert (others.distill.scheme, others.distill.compare) == ("kd", ["supervised"])
    assert others.hash() == study.hash()


def test_the_sites_are_asked_for_what_the_schemes_need_and_nothing_less() -> None:
    study = read_study(PROSTATE)
    few, many = (with_students(study, names, {}, PROSTATE) for names in (["supervised", "kd"], ["cirkd", "skd"]))
    assert with_contents(few, PROSTATE).answers.contents == study.answers.contents
    more = with_contents(many, PROSTATE)
    assert set(more.answers.contents) == {*study.answers.contents, "features", "affinity"}
    assert more.hash() == study.hash()


def more(study: Study, **asked: Any) -> dict[str, dict[str, Any]]:
    options: dict[str, Any] = {"without": [], "each_teacher": False, "networks": []}
    return variants(study, "supervised", **(options | asked))


def test_a_site_is_left_out_by_a_variant_of_the_studys_scheme() -> None:
    study = read_study(PROSTATE)
    plan = with_students(study, ["supervised"], more(study, without=["hospital-b"]), PROSTATE)
    assert plan.distill.students == ["supervised", "without-hospital-b"]
    student = plan.distill.of("without-hospital-b")
    assert (student.scheme, student.without) == ("consensus", ["hospital-b"])
    with pytest.raises(InputError, match="no site is called `hospital-d`, did you mean `hospital-"):
        with_students(study, ["supervised"], more(study, without=["hospital-d"]), PROSTATE)


def test_an_absent_teachers_student_stands_beside_the_one_with_it() -> None:
    study = read_study(PROSTATE)
    assert students(study, "kd", "supervised", without=["hospital-b"]) == ["supervised", "kd", "consensus"]
    assert students(study, "kd", "supervised", without=[]) == ["supervised", "kd"]
    assert set(students(study, "", "supervised", without=[])) == {"supervised", *study.distill.students}


def test_each_teacher_and_each_network_have_students_of_their_own() -> None:
    study = read_study(PROSTATE)
    plan = with_students(study, ["supervised"], more(study, each_teacher=True, networks=["espnet", "enet"]), PROSTATE)
    alone = [f"only-hospital-{letter}" for letter in "abc"]
    assert plan.distill.students == [
        "supervised", *alone, *(f"{name}-enet" for name in ("supervised", "consensus", *alone)),
    ]  # fmt: skip
    student = plan.distill.of("only-hospital-b-enet")
    assert (student.scheme, student.mono_teacher, student.network) == ("mono-teacher", "hospital-b", "enet")
    assert plan.student_of("only-hospital-b-enet").model == "enet"
    assert plan.student_of("only-hospital-b").model == "espnet"
    named = study.model_copy(update={"distill": study.distill.model_copy(update={"variants": {"only-hospital-a": {}}})})
    with pytest.raises(
        InputError, match=r"`distill\.variants\.only-hospital-a` has the name of a student that is asked for"
    ):
        with_students(named, ["only-hospital-a"], more(named, each_teacher=True), PROSTATE)
    assert variants(named, "only-hospital-a", without=[], each_teacher=False, networks=["enet"])[
        "only-hospital-a-enet"
    ] == {"scheme": "consensus", "network": "enet"}
    with pytest.raises(InputError, match="did you mean `enet`"):
        with_students(study, ["supervised"], more(study, networks=["ennet"]), PROSTATE)


def test_an_unknown_scheme_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(PROSTATE), "--schemes", "kdd", "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_scheme_is_named_with_the_nearest(tmp_path: Path) -> None:
    from study.plan import check_rooms

    with pytest.raises(InputError, match="no scheme is called `kdd`, did you mean `kd`"):
        check_rooms(with_students(read_study(PROSTATE), ["kdd"], {}, PROSTATE), schemes=["kd", "at"], phantoms={})
