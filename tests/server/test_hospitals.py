"""What a simulation puts on disk: cohorts that differ, and a site.toml for each hospital."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from client.site import read_site
from imaging.errors import InputError
from models.contents import DEFAULT
from server import hospitals
from server.hospitals import cohorts, scans_folder, write_site
from server.simulation import simulate
from study.plan import Asked, Study


def study(**site: Any) -> Study:
    phantom = {"phantom": "promise12", "cases": 3, "format": "dicom", "masks": 2}
    return Study.model_validate(
        {
            "name": "bench",
            "task": {"modality": "MR", "classes": ["background", "prostate"]},
            "preprocess": {"size": [32, 48]},
            "sites": [{"name": "hospital-a", "source": phantom}, {"name": "hospital-b", **site}],
            "student": {"model": "espnet", "sources": [phantom, {"folder": "/scans"}, phantom]},
        }
    )


def test_every_source_of_phantoms_is_a_cohort_of_its_own(tmp_path: Path) -> None:
    found = cohorts(study(source={"folder": "/real"}), tmp_path)
    assert [cohort.owner for cohort in found] == ["hospital-a", "the study lead", "the study lead"]
    assert len({cohort.seed for cohort in found}) == 3, "or two owners would hold the same patients"
    assert len({cohort.folder for cohort in found}) == 3
    again = cohorts(study(source={"folder": "/real"}).model_copy(update={"seed": 1}), tmp_path)
    assert {cohort.seed for cohort in again}.isdisjoint({cohort.seed for cohort in found})


def test_a_cohort_is_written_once_it_is_marked_and_as_it_was_asked(tmp_path: Path) -> None:
    first, *_ = cohorts(study(), tmp_path)
    assert not first.written()
    first.mark()
    assert first.written()
    other = study().model_copy(update={"seed": 1})
    assert not cohorts(other, tmp_path)[0].written()
    words = first.command(tmp_path / "log").words
    assert words[words.index("phantom") :] == [
        *("phantom", "promise12", str(first.folder), "--format", "dicom", "--cases", "3", "--seed", str(first.seed))
    ]


def test_a_scanner_simulated_on_real_scans_is_a_cohort_too(tmp_path: Path) -> None:
    scanner = {"noise": 0.05, "blur_mm": 2.0}
    plan = study(source={"folder": "/real", "patients": [2, 5], "masks": 2, "scanner": scanner})
    cohort = cohorts(plan, tmp_path)[1]
    assert (cohort.owner, cohort.source.count, cohort.folder) == ("hospital-b", 3, scans_folder(tmp_path, "hospital-b"))
    words = cohort.command(tmp_path / "log").words
    assert words[words.index("rescan") :] == [
        *("rescan", "/real", str(cohort.folder), "--patients", "2", "5"),
        *("--gamma", "1.0", "--shading", "0.0", "--blur-mm", "2.0", "--noise", "0.05", "--seed", str(cohort.seed)),
    ]
    write_site(plan, tmp_path, "hospital-b", Path("/run/s.sock"))
    written = tomllib.loads((tmp_path / "hospitals/hospital-b/site.toml").read_text())
    assert written["data"] == "scans"
    assert written["masks"] == 2
    assert "patients" not in written, "they are chosen when the scans are written"


@pytest.mark.parametrize(
    ("task", "scanner", "words"),
    [
        ({"modality": "CT"}, {"noise": 0.1}, "`scanner` simulates one sequence of MR"),
        ({"channels": ["t1", "t2"]}, {"noise": 0.1}, "`scanner` simulates one sequence of MR"),
        ({}, {"noise": 2.0}, "noise"),
    ],
)
def test_a_scanner_that_cannot_be_is_refused(task: dict[str, Any], scanner: dict[str, float], words: str) -> None:
    content = study(source={"folder": "/real", "patients": [2, 5]}).model_dump(mode="json")
    content["task"] |= task
    content["preprocess"]["normalise"] = "window" if task.get("modality") == "CT" else "min-max"
    content["sites"][1]["source"]["scanner"] = scanner
    with pytest.raises(ValueError, match=words):
        Study.model_validate(content)


def test_a_scanner_says_whose_scans_it_makes() -> None:
    with pytest.raises(ValueError, match="say of whom by `patients`"):
        study(source={"folder": "/real", "scanner": {"noise": 0.1}})


def test_a_site_reads_its_phantoms_or_the_folder_that_the_study_names(tmp_path: Path) -> None:
    plan = study(source={"folder": "/real", "patients": [2, 5]})
    for site in plan.sites:
        write_site(plan, tmp_path, site.name, Path("/run/s.sock"))
    written = [tomllib.loads((tmp_path / "hospitals" / s.name / "site.toml").read_text()) for s in plan.sites]
    north = read_site(tmp_path / "hospitals" / plan.sites[0].name / "site.toml")
    assert north.data == cohorts(plan, tmp_path)[0].folder
    assert written[0]["masks"] == 2
    assert (written[1]["data"], written[1]["patients"]) == ("/real", [2, 5])
    assert "masks" not in written[1]
    assert all(site["socket"] == "/run/s.sock" and site["threads"] >= 1 for site in written)


def test_a_copied_run_folder_does_not_point_at_the_one_it_was_copied_from(tmp_path: Path) -> None:
    plan = study(source={"folder": "/real"})
    for site in plan.sites:
        write_site(plan, tmp_path / "run", site.name, Path("/run/s.sock"))
    (tmp_path / "run").rename(tmp_path / "copy")
    for site, data in zip(plan.sites, (tmp_path / "copy/hospitals/hospital-a/scans", Path("/real")), strict=True):
        config = read_site(tmp_path / "copy" / "hospitals" / site.name / "site.toml")
        assert config.data == data
        assert config.workspace == tmp_path / "copy" / "hospitals" / site.name / "workspace"


def test_a_run_that_goes_on_trains_with_the_threads_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, threads = study(source={"folder": "/real"}), []
    for cores in (4, 8):
        monkeypatch.setattr(hospitals, "cores", lambda cores=cores: cores)
        for folder in ("old", f"new-{cores}"):
            write_site(plan, tmp_path / folder, "hospital-a", Path("/run/s.sock"))
            threads.append(read_site(tmp_path / folder / "hospitals" / "hospital-a" / "site.toml").threads)
    assert threads == [2, 2, 2, 4]


def test_a_hospital_downloads_only_what_the_study_begins_with(tmp_path: Path) -> None:
    for options, downloads in (({}, False), ({"encoder": "resnet18", "pretrained": 1}, True)):
        plan = study(source={"folder": "/real"}, model="pspnet", options=options)
        write_site(plan, tmp_path, "hospital-b", Path("/run/s.sock"))
        assert read_site(tmp_path / "hospitals" / "hospital-b" / "site.toml").policy.downloads == downloads


def test_a_site_without_scans_cannot_be_simulated(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="site hospital-b has no `source`"):
        write_site(study(), tmp_path, "hospital-b", Path("/run/s.sock"))


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({}, "site hospital-b has no `source`"),
        ({"source": {"folder": "/nowhere/b"}}, "/nowhere/b: the scans of site hospital-b are missing"),
        ({"source": {"phantom": "promise12", "cases": 1}}, "/scans: the scans of the student's source 2 are missing"),
    ],
)
def test_missing_scans_are_told_before_anything_is_written(tmp_path: Path, site: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        simulate(study(**site), tmp_path / "run", Console(quiet=True))
    assert not (tmp_path / "run" / "hospitals").exists()
    assert not (tmp_path / "run" / "lead").exists()


def test_a_simulated_hospital_releases_what_its_study_asks_for_unless_somebody_wrote_a_list(tmp_path: Path) -> None:
    asking, more = (
        study().model_copy(update={"answers": Asked(contents=[*DEFAULT, *contents])})
        for contents in (["features"], ["features", "affinity"])
    )
    write_site(study(), tmp_path, "hospital-a", Path("/run/s.sock"))
    path = tmp_path / "hospitals" / "hospital-a" / "site.toml"
    assert read_site(path).policy.release == DEFAULT
    for study_now in (asking, more):
        write_site(study_now, tmp_path, "hospital-a", Path("/run/s.sock"))
        assert set(read_site(path).policy.release) >= set(study_now.answers.contents)
    path.write_text(path.read_text().replace('    "features",\n', ""))
    write_site(asking, tmp_path, "hospital-a", Path("/run/s.sock"))
    assert "features" not in read_site(path).policy.release


def test_a_policy_that_somebody_wrote_stays(tmp_path: Path) -> None:
    write_site(study(), tmp_path, "hospital-a", Path("/run/s.sock"))
    path = tmp_path / "hospitals" / "hospital-a" / "site.toml"
    path.write_text(path.read_text() + '\n[policy]\nevaluations = 0\nrelease = ["logits"]\n')
    write_site(study(), tmp_path, "hospital-a", Path("/run/other.sock"))
    policy = read_site(path).policy
    assert (policy.evaluations, policy.release) == (0, ("logits",))
    path.write_text("[policy\n")
    with pytest.raises(InputError, match="is not TOML"):
        write_site(study(), tmp_path, "hospital-a", Path("/run/other.sock"))


def test_a_teacher_that_somebody_named_stays(tmp_path: Path) -> None:
    write_site(study(), tmp_path, "hospital-a", Path("/run/s.sock"))
    path = tmp_path / "hospitals" / "hospital-a" / "site.toml"
    path.write_text('teacher = "teacher.onnx"\nkeep_mib = 5\n' + path.read_text())
    write_site(study(), tmp_path, "hospital-a", Path("/run/other.sock"))
    assert read_site(path).teacher == path.parent / "teacher.onnx"
    assert read_site(path).keep_mib == 5
