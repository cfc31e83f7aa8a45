from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from imaging.errors import InputError
from study.plan import Study
from study.run import EVENTS, Run, create_or_resume, differing, event_in, events, left_out, read_study_of, versions


@pytest.fixture
def study(content: dict[str, Any]) -> Study:
    return Study.model_validate(content)


def test_events_come_back_in_order(tmp_path: Path) -> None:
    run, before = Run(tmp_path), time.time()
    run.event("joined", site="north")
    run.event("epoch", site="nörth\n", dice=0.5, path=tmp_path, note=None)
    run.event("joined", site="south")
    found = run.events()
    assert [event["kind"] for event in found] == ["joined", "epoch", "joined"]
    assert found[1] == {
        "time": found[1]["time"],
        "kind": "epoch",
        "site": "nörth\n",
        "dice": 0.5,
        "path": str(tmp_path),
        "note": None,
    }
    assert before - 0.01 <= found[0]["time"] <= found[2]["time"] <= time.time() + 0.01
    assert [event["site"] for event in run.events("joined")] == ["north", "south"]
    assert (tmp_path / EVENTS).read_bytes().count(b"\n") == 3


def test_a_folder_without_events_has_none(tmp_path: Path) -> None:
    assert events(tmp_path) == []
    assert events(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "torn", ['{"time": 1.0, "ki', '{"time": 1.0, "kind": "x"', "\x00\x00\x00", "[1, 2]", '{"a": 1}', "3"]
)
def test_a_torn_line_is_left_out_and_harms_no_other(tmp_path: Path, torn: str) -> None:
    run = Run(tmp_path)
    run.event("first")
    with (tmp_path / EVENTS).open("a") as file:
        file.write(torn)
    assert [event["kind"] for event in run.events()] == ["first"]
    run.event("second")
    run.event("third")
    assert [event["kind"] for event in run.events()] == ["first", "second", "third"]


def test_a_line_is_an_event_or_none() -> None:
    assert event_in(b'{"time": 1, "kind": "x"}') == {"time": 1, "kind": "x"}
    assert [event_in(line) for line in (b"", b"{", b"\xff", b"[]", b"{}", b"null")] == [None] * 6


def test_several_processes_append_at_once(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from study.run import Run\n"
    program += "for n in range(300): Run(Path(sys.argv[1])).event('n', who=sys.argv[2], n=n, filling='x' * (n % 97))"
    root = Path(__file__).parents[2]
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name], cwd=root) for name in "ab"]
    for n in range(300):
        Run(tmp_path).event("n", who="c", n=n)
    assert [writer.wait() for writer in writers] == [0, 0]
    found = events(tmp_path)
    for who in "abc":
        assert [event["n"] for event in found if event["who"] == who] == list(range(300))


def test_a_site_is_left_out_until_it_does_something_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for site in ("north", "south"):
        run.event("taught", site=site)
        run.event("site-left-out", phase="collect", site=site, cause=f"{site} is silent")
    for kind in ("site-joined", "taught", "evaluated"):  # another phase's work is none of this one's
        run.event(kind, site="north")
    assert left_out(tmp_path)["north"]["cause"] == "north is silent"
    run.event("collected", site="north")
    assert set(left_out(tmp_path)) == {"south"}
    run.event("site-left-out", site="east", phase="collect", round=1, cause="late", remedy="")
    assert (set(left_out(tmp_path, 0)), set(left_out(tmp_path, 1))) == ({"south"}, {"east"})


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Run(tmp_path).event("epoch", loss=float("nan"))
    assert events(tmp_path) == []


def test_a_run_goes_on_with_its_own_study(tmp_path: Path, study: Study) -> None:
    folder = tmp_path / "runs" / "small"
    run = create_or_resume(folder, study)
    run.event("joined")
    assert create_or_resume(folder, study) == run
    assert run.study == read_study_of(folder) == study
    assert run.study.hash() == study.hash()
    assert sorted(path.name for path in folder.iterdir()) == ["events.jsonl", "study.json", "versions.json"]
    assert [event["kind"] for event in run.events()] == ["joined"]


def test_another_study_is_refused_with_the_keys_that_differ(tmp_path: Path, content: dict[str, Any]) -> None:
    create_or_resume(tmp_path, Study.model_validate(content))
    before = (tmp_path / "study.json").read_bytes()
    content["seed"], content["sites"][1]["name"] = 4, "east"
    content["task"]["classes"].append("middle")
    with pytest.raises(InputError) as caught:
        create_or_resume(tmp_path, Study.model_validate(content))
    keys = "seed, sites.1.name, task.classes.3"
    remedy = f"choose another folder with `--out`, or remove {tmp_path}"
    assert str(caught.value) == f"{tmp_path}: belongs to another study; differing: {keys}; {remedy}"
    assert (tmp_path / "study.json").read_bytes() == before


def test_a_run_goes_on_with_other_settings_of_what_nobody_was_asked(tmp_path: Path, content: dict[str, Any]) -> None:
    before = create_or_resume(tmp_path, Study.model_validate(content)).study
    content.setdefault("federation", {}).update(min_sites=2, patience_s=5.0)
    content.setdefault("distill", {}).update(steps=7, compare=["uniform"])
    content.setdefault("answers", {}).update(precision="uint8")  # which the store then refuses, if it holds others
    run = create_or_resume(tmp_path, Study.model_validate(content))
    assert (run.study.federation.min_sites, run.study.distill.steps) == (2, 7)
    (event,) = run.events("settings-changed")
    assert {"federation.min_sites", "federation.patience_s", "distill.steps", "answers.precision"} <= set(event["keys"])
    assert run.study.teacher == before.teacher


@pytest.mark.parametrize("key", ["federation.shard_slices", "distill.split"])
def test_what_the_sites_were_asked_cannot_be_changed(tmp_path: Path, content: dict[str, Any], key: str) -> None:
    create_or_resume(tmp_path, Study.model_validate(content))
    table, _, name = key.partition(".")
    content.setdefault(table, {})[name] = {"shard_slices": 9, "split": [0.5, 0.5, 0.0]}[name]
    with pytest.raises(InputError, match=f"belongs to another study; differing: {key}"):
        create_or_resume(tmp_path, Study.model_validate(content))


def test_a_full_disk_is_told_by_the_events_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be recorded"):
        Run(tmp_path / "is not there").event("x")


def test_many_differing_keys_are_counted(tmp_path: Path, content: dict[str, Any]) -> None:
    create_or_resume(tmp_path, Study.model_validate(content))
    content["sites"] = [{"name": f"site-{n}"} for n in range(9)]
    with pytest.raises(InputError, match=r"sites.0.name, .* and \d+ more; choose another folder"):
        create_or_resume(tmp_path, Study.model_validate(content))


@pytest.mark.parametrize("left", ["", "{", "[]", "null", '{"name": "small"}'])
def test_a_damaged_study_file_is_told(tmp_path: Path, study: Study, left: str) -> None:
    (tmp_path / "study.json").write_text(left)
    with pytest.raises(InputError, match="`--out`"):
        create_or_resume(tmp_path, study)
    with pytest.raises(InputError, match=r"study.json.*`--out`"):
        read_study_of(tmp_path)


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no run folder: it holds no study.json; name the folder of a run"):
        read_study_of(tmp_path)


def test_versions_are_kept_and_a_change_is_an_event(tmp_path: Path, study: Study) -> None:
    run = create_or_resume(tmp_path, study)
    kept = json.loads((tmp_path / "versions.json").read_text())
    assert kept == versions()
    assert kept["packages"]["numpy"]
    assert kept["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    kept["packages"]["torch"] = "0.1"
    (tmp_path / "versions.json").write_text(json.dumps(kept))
    create_or_resume(tmp_path, study)
    assert [event["keys"] for event in run.events("versions-changed")] == [["packages.torch"]]
    assert json.loads((tmp_path / "versions.json").read_text()) == versions()


def test_differing_keys() -> None:
    assert differing({"a": 1, "b": {"c": [1, {"d": 2}]}}, {"a": 1, "b": {"c": [1, {"d": 2}]}}) == []
    assert differing({"a": 1, "b": {"c": [1, {"d": 2}]}}, {"a": 2, "b": {"c": [1, {"d": 3}]}}) == ["a", "b.c.1.d"]
    assert differing({"a": []}, {"a": [1]}) == ["a", "a.0"]
    assert differing({"a": None}, {}) == ["a"]
