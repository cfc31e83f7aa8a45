"""A site whose teacher came ready as an ONNX file: a card at once, answers of logits alone, and nothing to train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from client.commands import site_app
from client.handlers import Site
from client.scans import open_scans
from client.service import serve
from client.site import read_site
from client.teacher import folder_of, load_teacher
from imaging.errors import InputError
from study.answers import Answers
from study.checkpoint import begun
from study.wire import Assignment, Card, LacksError, Shard, TeachRequest, pack, unpack
from tests.client.hospital import make_assignment, write_site
from tests.models.onnx_files import Tiny, export


@pytest.fixture(scope="module")
def site(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("north")
    torch.set_num_threads(1)
    export(Tiny(3), folder / "teacher.onnx")
    return Site(write_site(folder, scans, more='teacher = "teacher.onnx"'))


def teach(site: Site, assignment: Assignment) -> Card:
    return unpack(site.teach(pack(TeachRequest(assignment=assignment, until_epoch=1))), Card)[0]


def test_its_card_comes_at_once_with_its_dice_on_the_sites_own_patients(site: Site, assignment: Assignment) -> None:
    card = teach(site, assignment)
    assert (card.model, card.options, card.parameters) == ("onnx", {"gives": "logits"}, 5 * 9 + 5 + 3 * 5 + 3)
    assert (card.epochs, card.finished, card.history) == (0, True, [])
    assert card.patients == open_scans(site.config, assignment).patients()
    assert 0 < card.dice < 1
    assert not begun(folder_of(site.config, assignment))
    assert teach(site, assignment) == card


def test_it_answers_with_logits_whatever_else_is_asked(site: Site, assignment: Assignment) -> None:
    images = np.random.default_rng(3).normal(size=(19, 1, 48, 32)).astype(np.float16)
    shard = Shard(assignment, 2, np.arange(19), images, np.zeros((19, 48, 32), np.uint8))
    answers = Answers.unpack(site.answer(shard.pack()), shard)
    assert answers.contents == {"logits"}
    assert answers.header.weights_hash == teach(site, assignment).weights_hash
    expected = Tiny(3)(torch.from_numpy(images.astype(np.float32))).detach().numpy()
    assert np.allclose(answers.arrays["logits"], expected, atol=2e-3)


def test_slices_that_were_sent_once_are_only_named_after(site: Site, assignment: Assignment) -> None:
    images = np.random.default_rng(5).normal(size=(7, 1, 48, 32)).astype(np.float16)
    shard = Shard(assignment, 3, np.arange(7), images, np.zeros((7, 48, 32), np.uint8), ("logits",))
    varied = replace(shard, slice_ids=np.arange(100, 107), varied=True)
    with pytest.raises(LacksError, match="the slices of shard 3 are not kept here; send them again"):
        site.answer(varied.pack(named=True))
    plain = Answers.unpack(site.answer(shard.pack()), shard)
    again = Answers.unpack(site.answer(shard.pack(named=True)), shard)
    other = Answers.unpack(site.answer(varied.pack(named=True)), varied)
    assert len(varied.pack(named=True)) < len(shard.pack()) / 5
    assert np.array_equal(plain.arrays["logits"], again.arrays["logits"])
    expected = Tiny(3)(torch.from_numpy(varied.pictures()[0].astype(np.float32))).detach().numpy()
    assert np.allclose(other.arrays["logits"], expected, atol=2e-3)
    assert not np.allclose(other.arrays["logits"], plain.arrays["logits"], atol=0.1)


def test_a_file_that_does_not_fit_the_study_is_told_when_its_message_comes(site: Site, assignment: Assignment) -> None:
    other = make_assignment(task=assignment.task.model_copy(update={"classes": ["background", "organ"]}))
    with pytest.raises(InputError, match="tells 3 classes, the study has 2"):
        load_teacher(site.config, other)


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), (b"\x08 none", "is no ONNX model")])
def test_serve_refuses_a_file_that_is_no_teacher_before_it_listens(
    content: bytes | None, words: str, scans: Path, tmp_path: Path
) -> None:
    config = write_site(tmp_path, scans, more='teacher = "teacher.onnx"')
    assert config.teacher == tmp_path / "teacher.onnx"
    if content is not None:
        config.teacher.write_bytes(content)
    with pytest.raises(InputError, match=words):
        serve(read_site(tmp_path / "site.toml"))
    assert not config.socket.exists()


def test_check_says_what_the_file_can_do(scans: Path, tmp_path: Path) -> None:
    path = export(Tiny(3), tmp_path / "t.onnx", shape=(1, 1, 48, 32), free=())
    arguments = ["check", str(scans), "--teacher", str(path), "--classes"]
    done = CliRunner().invoke(site_app, [*arguments, "3"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "takes slices of 48 × 32, gives logits of 3 classes" in done.stdout
    with pytest.raises(InputError, match="tells 3 classes, the study has 4"):
        CliRunner().invoke(
            site_app, ["check", str(scans), "--classes", "4", "--teacher", str(path)], catch_exceptions=False
        )
