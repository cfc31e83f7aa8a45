from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import ValidationError

from imaging.errors import InputError
from imaging.phantom import PROFILES
from study.plan import FolderSource, PhantomSource, Study, check_networks, check_rooms, read_study, reference

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
Content = dict[str, Any]


def put(content: Content, key: str, value: Any) -> None:
    """Set `teacher.lr`, `sites.0.name`, …; None removes it."""
    *path, last = key.split(".")
    table: Any = content
    for part in path:
        table = table[int(part)] if isinstance(table, list) else table.setdefault(part, {})
    if value is None:
        del table[last]
    else:
        table[int(last) if isinstance(table, list) else last] = value


@pytest.fixture
def read(content: Content, tmp_path: Path) -> Callable[..., Study]:
    """Write the small study with some keys changed, and read it."""

    def written(**changes: Any) -> Study:
        for key, value in changes.items():
            put(content, key.replace("__", "."), value)
        path = tmp_path / "study.toml"
        path.write_text(tomli_w.dumps(content), encoding="utf-8")
        return read_study(path)

    return written


def test_folders_become_absolute(read: Callable[..., Study], tmp_path: Path) -> None:
    study = read(sites__0__source={"folder": "../north"}, sites__1__source={"phantom": "promise12", "cases": 3})
    assert study.student.sources == [FolderSource(folder=tmp_path / "scans")]
    assert study.sites[0].source == FolderSource(folder=(tmp_path / "../north").resolve())
    assert study.sites[1].source == PhantomSource(phantom="promise12", cases=3)


def test_a_site_and_the_student_have_no_patient_in_common(read: Callable[..., Study]) -> None:
    with pytest.raises(InputError, match=r"site `[^`]+` and the student share patients"):
        read(sites__1__source={"folder": "scans"})
    for nested in ("scans/north", "."):
        with pytest.raises(InputError, match="share patients"):
            read(sites__1__source={"folder": nested})
    with pytest.raises(InputError, match=r"site `[^`]+` and site `[^`]+` share patients"):
        read(sites__0__source={"folder": "all"}, sites__1__source={"folder": "all/east"})
    mine = {"folder": "scans", "patients": [0, 7]}
    with pytest.raises(InputError, match="share patients"):
        read(
            sites__1__source={"folder": "../" + "scans/../scans", "patients": [0, 7]},
            student__sources=[{"folder": "../scans"}],
        )
    apart = read(sites__1__source=mine, student__sources=[{"folder": "scans", "patients": [7, 9]}])
    assert apart.sites[1].source is not None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("teacher.epoch", 3, "teacher.epoch: is not a key of study.toml, did you mean `epochs`?"),
        ("distill.stepps", 3, "distill.stepps: is not a key of study.toml, did you mean `steps`?"),
        ("sites.0.nam", "x", "sites no. 1.nam: is not a key of study.toml, did you mean `name`?"),
        ("colour", "red", "colour: is not a key of study.toml;"),
        ("preprocess.sise", [8, 8], "preprocess.sise: is not a key of study.toml, did you mean `size`?"),
        ("augment.flip", 1.5, "augment.flip: should be less than or equal to 1, got 1.5"),
        ("teacher.lr", "fast", 'teacher.lr: should be a number, got "fast"'),
        ("teacher.epochs", 0, "teacher.epochs: should be greater than or equal to 1, got 0"),
        ("teacher.epochs", 2.5, "teacher.epochs: should be a whole number, got 2.5"),
        ("teacher.epochs", True, "teacher.epochs: should be a whole number, got true"),
        ("seed", "0", 'seed: should be a whole number, got "0"'),
        ("distill", 7, "distill: is a table of keys, got 7"),
        ("task.modality", "US", "task.modality: should be 'MR' or 'CT', got \"US\""),
        ("task.modality", None, "task.modality: is missing"),
        ("task.classes", ["all"], "task.classes: should have at least 2 values, got 1"),
        ("task.classes", ["a", "b", "a"], "task: `classes` needs a name of its own for each class"),
        ("name", "My Study", 'name: use lower-case letters, digits and hyphens, at most 41, got "My Study"'),
        ("sites", [], "sites: should have at least 1 value, got 0"),
        ("preprocess.spacing_mm", [1.0], "preprocess.spacing_mm: should have at least 2 values, got 1"),
        ("sites.0.name", "../north", "sites no. 1.name: use lower-case letters"),
        ("sites.1.name", "north", "two sites share a name: north, north"),
        ("teacher.model", "deeplabv3", "teacher.model: no teacher is called `deeplabv3`, did you mean `deeplabv3plus`"),
        ("teacher.model", "enet", "teacher.model: no teacher is called `enet`, did you mean `vnet`? There are: "),
        ("sites.0.model", "fnc", "sites no. 1.model: no teacher is called `fnc`, did you mean `fcn`?"),
        ("student.model", "enett", "student.model: no student is called `enett`, did you mean `enet`?"),
        ("teacher.options", {"backbone": "x"}, "teacher: network `fcn` has no option `backbone`; its options: encod"),
        ("distill.network", "enet", "`distill.network` is for variants; name the study's own by `student.model`"),
        ("student.options", {"width": 2}, "student: network `espnet` has no option `width`; it takes no options"),
        ("sites.0.model", "resnext101", "network `resnext101` has no option `encoder`; it takes no options"),
        ("teacher.options", {"encoder": "tu-hf-hub:a/b"}, "`fcn` names a place to load from, 'tu-hf-hub:a/b'"),
        ("teacher.options", {"encoder": "../net"}, "`fcn` names a place to load from, '../net'"),
        ("teacher.options", {"pretrained": 1}, "network `fcn` takes `pretrained` only with `encoder`"),
        ("task.modality", "CT", 'CT needs `normalise = "window"` in `[preprocess]`'),
        ("preprocess.normalise", "window", 'MR needs `normalise = "percentile-zscore"` in `[preprocess]`'),
        ("preprocess.size", [20, 24], "`preprocess.size` [20, 24] is no multiple of 8, which `espnet` needs"),
        ("teacher.split", [0.5, 0.4, 0.2], "teacher.split: holds three shares of patients that add up to 1"),
        ("teacher.split", [0.5, 0.5], "teacher.split no. 3: is missing"),
        ("distill.split", [0.0, 0.5, 0.5], "`distill.split` leaves no patient to train on"),
        ("teacher.split", [0.0, 0.5, 0.5], "`teacher.split` leaves no patient to train on; that is for sites that"),
        ("distill.split", [1.5, -0.5, 0.0], "distill.split: holds three shares"),
        ("distill.mono_teacher", "nort", "no site is called `nort`, did you mean `north`?"),
        ("distill.lr_min", 0.02, "distill: `lr_min` (0.02) is above `lr` (0.01)"),
        ("distill.weights.law", "printed", "distill.weights.law: should be 'uniform', 'fixed', 'agreement'"),
        ("distill.weights.fixed", {"nroth": 1.0}, "no site is called `nroth`, did you mean `north`?"),
        ("distill.weights.law", "fixed", "`law` is fixed, and `fixed` names no site's share"),
        ("answers.contents", ["pixels"], "answers.contents no. 1: should be 'logits', 'attention'"),
        ("federation.min_sites", 3, "`federation.min_sites` is 3 but the study has 2 sites"),
        ("student.sources", [], "student.sources: should have at least 1 value, got 0"),
        ("student.sources", [{"path": "x"}], 'student.sources no. 1: is no source; write either { folder = "scans" }'),
        ("student.sources", [{"phantom": "p", "cases": 3, "folder": "a"}], "student.sources no. 1: is no source; "),
        ("teacher.split", [float("nan"), 0.5, 0.5], "teacher.split no. 1: should be a finite number"),
        ("preprocess.spacing_mm", [float("inf"), 1.0], "preprocess.spacing_mm no. 1: should be a finite number"),
        ("federation.resend_s", float("inf"), "federation.resend_s: should be a finite number"),
        ("distill.compare", ["uniform", "uniform"], "distill: `compare` names a scheme twice: uniform, uniform"),
        ("distill.variants", {"x": {"steps": "9"}}, "distill: `variants.x`: steps: should be a whole number, got"),
        ("distill.variants", {"x": {"stpes": 9}}, "`variants.x`: stpes: is not a key of [distill], did you mean"),
        ("distill.variants", {"x": {"split": [1, 0, 0]}}, "`variants.x.split` cannot differ"),
        ("distill.variants", {"a": {"start": "amtdk"}}, "no student of this study is called `amtdk`"),
        (
            "distill.variants",
            {"a": {"start": "amtkd", "network": "enet"}},
            "student `a` begins with the weights of `amtkd`, which is another network",
        ),
        ("distill.variants", {"a": {"start": "b"}, "b": {"start": "a"}}, "`start` leads in a circle: a, b, a"),
        ("distill.variants", {"x": {"without": ["nort"]}}, "no site is called `nort`, did you mean `north`?"),
        ("distill.without", ["north", "south"], "`distill.without` leaves no teacher"),
        ("averaging.strategies", ["fedavg", "fedavg"], "averaging: `strategies` names one twice: fedavg, fedavg"),
        ("averaging.strategies", ["fedsgd"], "averaging.strategies no. 1: should be 'fedavg', 'fedprox' or 'fedadam'"),
        ("averaging", {"local": True, "rounds": 9, "steps": 8}, "`averaging.rounds` is 9, and there are 8 steps"),
        ("student.sources", [{"phantom": "p"}], "student.sources no. 1.cases: is missing"),
        ("student.sources", [{"folder": "a", "cases": 3}], "student.sources no. 1.cases: is not a key of study.toml"),
        ("seed", 2**63, "seed: should be less than 9223372036854775808"),
        ("student.sources", [{"phantom": "p", "cases": 3, "masks": 4}], "`masks` is 4, and there are 3 cases"),
        ("sites.0.source", {"folder": "x", "patients": [3, 3]}, "`patients` is [3, 3]; write the first number and one"),
        ("sites.0.source", {"folder": "x", "patients": [1]}, "sites no. 1.source.patients no. 2: is missing"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_file_key_and_remedy(
    read: Callable[..., Study], key: str, value: Any, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(**{key.replace(".", "__"): value})
    message = str(caught.value)
    assert words in message
    assert message.endswith("; `preceptor study` explains every key")
    assert re.match(r"/.*/study\.toml: ", message)
    assert "\n" not in message
    assert "Input" not in message


def test_a_variant_is_the_study_with_other_values(read: Callable[..., Study]) -> None:
    given = {"sharp": {"scheme": "uniform", "amtkd": {"beta": 0.5}, "weights": {"law": "fixed", "fixed": {"north": 1}}}}
    study = read(distill__variants=given, distill__weights={"fixed": {"south": 1.0}}, distill__amtkd={"alpha": 0.3})
    sharp = study.distill.of("sharp")
    assert (sharp.scheme, sharp.amtkd.beta, sharp.amtkd.alpha) == ("uniform", 0.5, 0.3)
    assert sharp.weights.fixed == {"north": 1.0}
    assert study.distill.students[-1] == "sharp"
    assert study.hash() == read(distill__weights={"fixed": {"south": 1.0}}, distill__amtkd={"alpha": 0.3}).hash()


def test_every_fault_is_told_at_once(read: Callable[..., Study]) -> None:
    with pytest.raises(InputError, match=r"seed: .* got -1; teacher.batch: .* got 1; distill.nonsense: is not a key"):
        read(seed=-1, teacher__batch=1, distill__nonsense=True)


def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    with pytest.raises(InputError, match=r"study.toml: cannot be read \(No such file or directory\); name an existing"):
        read_study(path)
    path.write_text('name = "small"\nname = 3\n')
    with pytest.raises(InputError, match=r"study.toml: is not TOML: .*line 2"):
        read_study(path)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(InputError, match="is not TOML"):
        read_study(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_study(tmp_path)


def test_a_byte_order_mark_is_no_fault(read: Callable[..., Study], tmp_path: Path) -> None:
    read()
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_study(path).name == "small"


def test_defaults_are_the_papers(content: Content) -> None:
    study = Study.model_validate(content)
    amtkd, distill, teacher = study.distill.amtkd, study.distill, Study.model_fields["teacher"].default
    assert (amtkd.dice, amtkd.lovasz, amtkd.alpha, amtkd.beta) == (0.2, 0.3, 0.1, 0.1), "Eq. 5 and 6"
    assert (distill.lr, distill.lr_min, distill.lr_half_cycle) == (0.01, 1e-6, 2000), "section 4.3"
    assert (teacher.lr, teacher.epochs, teacher.model) == (0.01, 100, "deeplabv3plus"), "section 4.3 and Table 4"
    assert (amtkd.temperature, distill.batch, teacher.batch) == (4.0, 16, 16), "ours, EMKD's code: the paper gives none"
    augment = study.augment
    assert (augment.rotate_deg, augment.scale, augment.shift, augment.flip) == (90, 0.2, 0.0625, 0.5), "section 4.1"
    assert (augment.elastic, augment.grid, augment.optical) == (0.1, 0.1, 0.1), "section 4.1"
    assert (augment.brightness_contrast, augment.dropout) == (0.2, 0.2), "section 4.1"
    assert distill.scheme == "consensus", "ours: what won on real scans"
    assert distill.compare == ["supervised", "mono-teacher", "uniform", "amtkd"]
    assert Study.model_validate(content | {"preprocess": {}}).preprocess.size == (384, 384), "section 4.4.1"


def test_a_site_may_have_a_teacher_of_its_own(content: Content) -> None:
    content["sites"] = [{"name": "a"}, {"name": "b", "model": "pspnet"}, {"name": "c", "options": {}}]
    content["sites"].append({"name": "d", "model": "resnext101", "options": {}})
    study = Study.model_validate(content | {"preprocess": {"size": [32, 32]}})
    teachers = {name: study.teacher_of(name) for name in "abcd"}
    assert {name: teacher.model for name, teacher in teachers.items()} == {
        "a": "fcn",
        "b": "pspnet",
        "c": "fcn",
        "d": "resnext101",
    }
    assert [teachers[name].options for name in "abcd"] == [{"encoder": "resnet18"}, {"encoder": "resnet18"}, {}, {}]
    assert teachers["b"].epochs == study.teacher.epochs
    with pytest.raises(InputError, match="no site is called `e`"):
        study.teacher_of("e")


def test_the_hash_changes_with_every_setting_and_not_with_the_order_of_keys(content: Content) -> None:
    study = Study.model_validate(content)
    assert re.fullmatch("[0-9a-f]{12}", study.hash())
    assert Study.model_validate(dict(reversed(content.items()))).hash() == study.hash()
    assert Study.model_validate_json(study.model_dump_json()).hash() == study.hash()
    seen = {study.hash()}
    for key, value in (
        ("seed", 4),
        ("task.classes", ["a", "b", "d"]),
        ("distill.amtkd.beta", 0.2),
        ("teacher.epochs", 9),
    ):
        put(content, key, value)
        seen.add(Study.model_validate(content).hash())
    assert len(seen) == 5
    put(content, "federation.patience_s", 7.0)
    put(content, "distill.compare", ["uniform"])
    put(content, "averaging.strategies", ["fedavg"])
    put(content, "answers.views", 2)
    assert Study.model_validate(content).hash() in seen


def test_a_study_cannot_be_changed(content: Content) -> None:
    study = Study.model_validate(content)
    with pytest.raises(ValidationError):
        study.seed = 5  # type: ignore[misc]


def test_names_of_other_rooms_are_checked_when_asked(content: Content) -> None:
    content["sites"][0]["source"] = {"phantom": "promise21", "cases": 2}
    study = Study.model_validate(content)
    schemes = ["amtkd", "consensus", "supervised", "mono-teacher", "uniform"]
    with pytest.raises(InputError, match="study `small`: no phantom is called `promise21`, did you mean `promise12`"):
        check_rooms(study, schemes=schemes, phantoms=PROFILES)
    content["distill"] = {"scheme": "amktd"}
    with pytest.raises(
        InputError, match=r"no scheme is called `amktd`, did you mean `amtkd`\?.*mend it in the study's"
    ):
        check_rooms(Study.model_validate(content), schemes=schemes, phantoms=PROFILES)


@pytest.mark.parametrize("name", ["pooled", "answers-cache", "supervised"])
def test_a_variant_has_a_folder_of_its_own(content: Content, name: str) -> None:
    content["distill"] = {"variants": {name: {"scheme": "uniform"}}}
    study = Study.model_validate(content)
    with pytest.raises(InputError, match=f"`distill.variants.{name}` has the name of a scheme or of another folder"):
        check_rooms(study, schemes=["consensus", "supervised", "uniform", "amtkd", "mono-teacher"], phantoms=PROFILES)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"modality": "MR", "classes": ["background", "prostate"]}, None),
        ({"modality": "MR", "classes": ["a", "b", "c"]}, "has background and prostate, and the task has 3 classes"),
        ({"modality": "CT", "classes": ["a", "b"]}, "phantom `promise12` is MR, and the task is about CT"),
    ],
)
def test_phantoms_are_of_the_task(content: Content, task: dict[str, Any], words: str | None) -> None:
    content["sites"][0]["source"] = {"phantom": "promise12", "cases": 2}
    content["task"] = task
    content["preprocess"]["normalise"] = "window" if task["modality"] == "CT" else "percentile-zscore"
    study = Study.model_validate(content)
    with pytest.raises(InputError, match=words) if words else nullcontext():
        check_rooms(study, schemes=study.distill.students, phantoms=PROFILES)


def test_an_encoder_that_does_not_exist_shows_when_the_networks_are_built(content: Content) -> None:
    check_networks(Study.model_validate(content))
    content["sites"][1]["model"], content["sites"][1]["options"] = "pspnet", {"encoder": "resnet81"}
    with pytest.raises(InputError, match="teacher of site `south`: no encoder is called `resnet81`; did you mean r"):
        check_networks(Study.model_validate(content))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_of_ours_are_sound(path: Path) -> None:
    study = read_study(path)
    assert study.name == path.stem
    assert len(study.hash()) == 12


def test_every_key_has_a_meaning_a_type_and_a_default() -> None:
    rows = reference()
    table = {key: (kind, default, meaning) for key, kind, default, meaning in rows}
    assert table["distill.amtkd.alpha"] == (
        "number",
        "0.1",
        "Weight of the intermediate loss, attention and region contrast (Eq. 6).",
    )
    assert table["task.classes"][:2] == ("list of text", "required")
    assert table["sites[].options"][:2] == ("table of text or whole number", "")
    assert table["teacher.split"][:2] == ("[number, number, number]", "[0.7, 0.1, 0.2]")
    assert table["student.sources[].format"][:2] == ('"nifti" or "dicom"', '"nifti"')
    assert {"student.sources[].folder", "sites[].source.phantom", "preprocess.size", "name"} <= table.keys()
    for key, (kind, _, meaning) in table.items():
        assert meaning, f"{key} has no docstring"
        assert "\n" not in meaning
        assert "typing" not in kind
        assert "<" not in kind, f"{key}: {kind}"
