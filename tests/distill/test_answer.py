"""`preceptor answer`: stores filled without a federation, from which a job learns as from any."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
import typer
from lightning_fabric.plugins.precision import Precision
from safetensors.torch import save_file
from typer.testing import CliRunner

import models
from client.answer_command import answer_command
from distill.answered import open_rounds
from distill.job import run_job
from distill.schemes.base import Needs
from imaging.errors import InputError
from study.cards import read_card
from study.checkpoint import State, save
from study.cohorts import lead_split
from study.run import Run
from study.training import weights_hash
from tests.distill.conftest import SITES, MadeRun
from tests.models.onnx_files import Tiny, export

MakeRun = Callable[..., MadeRun]
ENCODER = "tu-tf_mobilenetv3_small_minimal_100"
ALL = Needs(contents=("logits", "attention", "contrast"))


def answer(run: MadeRun, *named: str, place: Sequence[object] = ()) -> str:
    app = typer.Typer()
    app.command()(answer_command)
    arguments = [*map(str, place or [run.folder]), *(word for one in named for word in ("--teacher", one))]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def run(make_run: MakeRun) -> MadeRun:
    """A run whose study names small teachers and has no answers."""
    made = make_run(answered=False)
    study = json.loads((made.folder / "study.json").read_text())
    study["teacher"] |= {"model": "pspnet", "options": {"encoder": ENCODER}}
    (made.folder / "study.json").write_text(json.dumps(study))
    return MadeRun(made.folder, Run(made.folder).study, made.slices, {})


def onnx_file(run: MadeRun, name: str = "a.onnx", classes: int = 3) -> Path:
    return export(Tiny(classes), run.folder.parent / name, shape=(2, 1, 40, 48))


def weights_file(run: MadeRun, classes: int = 3) -> Path:
    path = run.folder.parent / "pspnet.safetensors"
    save_file(models.create("pspnet", 1, classes, encoder=ENCODER).state_dict(), path)
    return path


def checkpoint(run: MadeRun) -> tuple[Path, str]:
    network, folder = models.create("pspnet", 1, 3, encoder=ENCODER), run.folder.parent / "checkpoint"
    folder.mkdir()
    save(State(step=1), folder, network, torch.optim.Adam(network.parameters()), Precision(), identity={})
    return folder, weights_hash(network.state_dict())


def test_files_of_all_kinds_fill_a_store_that_a_student_learns_from(run: MadeRun) -> None:
    folder, its_hash = checkpoint(run)
    printed = answer(run, f"north={onnx_file(run)}", f"east={weights_file(run)}", f"south={folder}")
    assert "onnx · logits" in printed
    assert f"preceptor distill {run.folder}" in printed
    cards = {site: read_card(run.folder, site) for site in SITES}
    assert [card.model for card in cards.values() if card] == ["onnx", "pspnet", "pspnet"]
    assert cards["south"] is not None
    assert cards["south"].weights_hash == its_hash
    assert run.store.withheld("north") == ["attention", "contrast"]
    said = open_rounds(run.study, run.folder, run.slices, ALL)[0]
    batch = said.answers(lead_split(run.study, run.slices)["train"][:3])
    assert batch.answered.all()
    assert batch.gives("attention/decoder").tolist() == [False, True, True]
    images = torch.from_numpy(run.slices.images[lead_split(run.study, run.slices)["train"][:3]]).float()
    assert torch.allclose(batch.logits[:, 0].float(), Tiny(3)(images), atol=2e-3)
    student = run_job(run.study, run.folder, "amtkd")
    assert student.teachers == list(SITES)


def test_nothing_is_asked_twice_and_a_damaged_shard_alone_again(run: MadeRun) -> None:
    named = f"north={onnx_file(run)}"
    assert "Still without answers: east, south" in answer(run, named)
    shards = [event["shard"] for event in Run(run.folder).events("collected")]
    assert shards == [0, 1, 2]
    before = run.store.read("north", 1, ["logits"]).arrays["logits"]
    answer(run, named)
    assert len(Run(run.folder).events("collected")) == 3, "neither logits nor what an ONNX file cannot tell"
    chunk = sorted(p for p in (run.store.folder / "north/round-000/logits/logits/c").rglob("*") if p.is_file())[1]
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 64
    chunk.write_bytes(content)
    with pytest.raises(InputError, match="logits of shard 1 of site north is damaged; collect again: only this"):
        run.store.read("north", 1, ["logits"])
    answer(run, named)
    assert [event["shard"] for event in Run(run.folder).events("collected")] == [*shards, 1]
    assert np.array_equal(run.store.read("north", 1, ["logits"]).arrays["logits"], before)


def test_a_study_file_becomes_a_run(run: MadeRun, tmp_path: Path) -> None:
    file, folder = tmp_path / "study.toml", tmp_path / "made"
    file.write_text(tomli_w.dumps(run.study.model_dump(mode="json", exclude_none=True)))
    for _ in range(2):
        answer(run, f"north={onnx_file(run)}", place=[file, "--out", folder])
    assert Run(folder).study == run.study
    assert [event["shard"] for event in Run(folder).events("collected")] == [0, 1, 2]
    study = run.study.model_dump(mode="json", exclude_none=True)
    file.write_text(tomli_w.dumps(study | {"answers": study["answers"] | {"rounds": 2}}))
    with pytest.raises(InputError, match="this one came ready; set it to 1"):
        answer(run, f"north={onnx_file(run)}", place=[file, "--out", tmp_path / "rounds"])
    assert not (tmp_path / "rounds").exists()
    with pytest.raises(InputError, match="beside a run's folder"):
        answer(run, f"north={onnx_file(run)}", place=[run.folder, "--out", folder])


def test_where_all_have_logits_alone_the_remedy_asks_no_site_for_more(run: MadeRun) -> None:
    answer(run, *(f"{site}={onnx_file(run)}" for site in SITES))
    with pytest.raises(InputError, match=r"no site released attention.*or set the weight of what needs it to 0$"):
        open_rounds(run.study, run.folder, run.slices, ALL)[0]
    assert open_rounds(run.study, run.folder, run.slices, Needs())[0].sites == SITES


def test_another_teacher_under_the_same_name_is_refused(run: MadeRun) -> None:
    answer(run, f"north={onnx_file(run)}")
    with pytest.raises(InputError, match="another teacher answers for north in this run already; remove"):
        answer(run, f"north={weights_file(run)}")


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nort={onnx}", "no site is called `nort`, did you mean `north`"),
        ("north", "is not NAME=PATH"),
        ("east={onnx}", "`--teacher` names east twice"),
        ("north={two}", "tells 2 classes, the study has 3"),
        ("north={weights}", "weights of another network than `pspnet` of 3 classes"),
        ("north={none}", "is no teacher that can be read"),
        ("north={folder}", "holds no checkpoint"),
    ],
)
def test_a_teacher_that_does_not_fit_is_told_before_anything_is_asked(named: str, words: str, run: MadeRun) -> None:
    files = {"onnx": onnx_file(run), "two": onnx_file(run, "two.onnx", 2), "weights": weights_file(run, 2)}
    named = named.format(**files, none=run.folder / "none.safetensors", folder=run.folder)
    with pytest.raises(InputError, match=words):
        answer(run, f"east={files['onnx']}", named)
    assert run.store.sites() == []


def test_a_store_of_another_studys_scans_is_refused(run: MadeRun, make_run: MakeRun) -> None:
    answer(run, f"north={onnx_file(run)}")
    for note in run.store.folder.glob("north/*/*/zarr.json"):
        note.write_text(note.read_text().replace(run.slices.identity(), "0" * 32))
    with pytest.raises(InputError, match="site north has answered about other scans of the student"):
        answer(run, f"north={onnx_file(run)}")
