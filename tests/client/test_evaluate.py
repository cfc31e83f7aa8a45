"""Evaluation on the site's own patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from client.evaluate import evaluate, evaluate_student, student_of
from client.policy import Policy
from client.scans import Scans, open_scans
from client.site import SiteConfig
from client.status import Status
from imaging.errors import InputError
from imaging.preprocess import Preprocess
from models import encoders
from study.plan import Task
from study.prediction import case_dice
from study.wire import EvaluateRequest
from tests.client.hospital import CLASSES, make_assignment, write_site

SIZE = (48, 56)
"""Larger than the scans, so that no voxel is cut off."""
TASK = Task(modality="MR", classes=CLASSES)


@pytest.fixture(scope="module")
def site(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SiteConfig, Scans]:
    torch.set_num_threads(1)
    config = write_site(tmp_path_factory.mktemp("evaluate"), scans)
    return config, open_scans(config, request().assignment)


def request(**changes: Any) -> EvaluateRequest:
    assignment = make_assignment(preprocess=Preprocess(size=SIZE))
    assignment = assignment.model_copy(
        update={"teacher": assignment.teacher.model_copy(update={"split": (0.4, 0.2, 0.4)})}
    )
    values = {"assignment": assignment, "label": "amtkd", "model": "espnet", "options": {}}
    return EvaluateRequest(**values | changes)


class Oracle(nn.Module):
    """Gives back the masks of the slices it knows; in `wrong` cases nothing but background."""

    def __init__(self, scans: Scans, wrong: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.known = {
            scans.cache.stack[i].astype(np.float32).tobytes(): scans.cache.outlines[i] * (case.id not in wrong)
            for case in scans.cache.cases
            for i in range(case.start, case.stop)
        }

    def forward(self, images: Tensor) -> Tensor:
        masks = np.stack([self.known[image.numpy().tobytes()] for image in images])
        return nn.functional.one_hot(torch.from_numpy(masks).long(), 3).movedim(3, 1).float()


def test_a_perfect_network_is_perfect_on_the_scans_own_voxels(site: tuple[SiteConfig, Scans]) -> None:
    found = evaluate(Oracle(site[1]), site[1], "test", TASK)
    assert len(found) == len(site[1].parts["test"]) == 3
    for evaluated in found:
        assert evaluated.metrics.metrics["dice"] == {"organ": 1.0, "lesion": 1.0}
        assert evaluated.metrics.metrics["hd95"] == {"organ": 0.0, "lesion": 0.0}
    assert case_dice(Oracle(site[1]), site[1].cache, site[1].parts["val"], 3) == 1


def test_the_order_is_the_same_for_every_network_and_not_that_of_the_ids(site: tuple[SiteConfig, Scans]) -> None:
    scans = site[1]
    everyone = Scans(scans.cache, scans.parts | {"test": list(scans.cache.cases)}, 0)
    owner = {
        scans.cache.stack[i].tobytes(): case.id for case in scans.cache.cases for i in range(case.start, case.stop)
    }
    orders = [
        [owner[found.overlay["image"][0].tobytes()] for found in evaluate(Oracle(scans, wrong), everyone, "test", TASK)]
        for wrong in (frozenset[str](), frozenset({scans.cache.cases[2].id}))
    ]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(ids := [case.id for case in scans.cache.cases])
    assert orders[0] != ids


def test_a_split_without_patients_is_named(site: tuple[SiteConfig, Scans]) -> None:
    empty = Scans(site[1].cache, site[1].parts | {"test": []}, 0)
    with pytest.raises(InputError, match="no outlined patient in the test split"):
        evaluate(Oracle(site[1]), empty, "test", TASK)


def weights() -> dict[str, np.ndarray[Any, Any]]:
    torch.manual_seed(1)
    return {name: tensor.numpy() for name, tensor in models.create("espnet", 1, 3).state_dict().items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stray": np.zeros(3, np.float32)}, "`stray`, which `espnet` does not have"),
        ({"body.fuse1.0.weight": None}, "is missing"),
        ({"body.fuse1.0.weight": np.zeros((2, 3), np.float32)}, "expected float32"),
        ({"body.fuse1.0.weight": "nan"}, "NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    arrays = weights()
    for name, value in change.items():
        if value is None:
            del arrays[name]
        elif isinstance(value, str):
            arrays[name] = np.full_like(arrays[name], np.nan)
        else:
            arrays[name] = value
    with pytest.raises(InputError, match=words):
        student_of(request(), arrays)


def test_no_message_makes_a_site_download_a_student(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(encoders, "weights", lambda name, pretrained: asked.append(bool(pretrained)))
    options: dict[str, str | int] = {"encoder": "resnet18", "pretrained": 1}
    with pytest.raises(InputError, match="which `pspnet` does not have"):
        student_of(request().model_copy(update={"model": "pspnet", "options": options}), weights())
    assert asked == [False]


def test_a_student_is_evaluated_once_and_its_pictures_stay(site: tuple[SiteConfig, Scans]) -> None:
    config, scans = site
    reply = evaluate_student(config, request(), weights(), scans, Status("north"))
    folder = config.workspace / "overlays" / "amtkd"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert evaluate_student(config, request(), weights(), scans, Status("north")) == reply
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert (len(reply.val), len(reply.test)) == (len(scans.parts["val"]), 3)
    with np.load(folder / "00.npz") as worst:
        assert worst["image"].shape == worst["reference"].shape == worst["prediction"].shape
        assert worst["image"].shape[1:] == SIZE
        assert 1 <= len(worst["image"]) <= 2


def test_other_weights_are_evaluated_anew(site: tuple[SiteConfig, Scans]) -> None:
    config, scans = site
    first = evaluate_student(config, request(), weights(), scans, Status("north"))
    other = {name: np.asarray(array * 2) for name, array in weights().items()}
    assert evaluate_student(config, request(), other, scans, Status("north")).weights_hash != first.weights_hash


def test_a_policy_bounds_how_many_students_are_evaluated(site: tuple[SiteConfig, Scans]) -> None:
    config, scans = site
    evaluate_student(config, request(), weights(), scans, Status("north"))
    strict = config.model_copy(update={"policy": Policy(evaluations=1)})
    evaluate_student(strict, request(), weights(), scans, Status("north"))
    third = {name: np.asarray(array * 3) for name, array in weights().items()}
    with pytest.raises(InputError, match="allows 1 students"):
        evaluate_student(strict, request(), third, scans, Status("north"))


def test_the_worst_case_comes_first_among_the_pictures(site: tuple[SiteConfig, Scans], tmp_path: Path) -> None:
    from client.evaluate import keep_overlays

    wrong = frozenset({site[1].parts["test"][1].id})
    keep_overlays(tmp_path / "o", evaluate(Oracle(site[1], wrong), site[1], "test", TASK))
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["00.npz", "01.npz", "02.npz"]
    with np.load(tmp_path / "o" / "00.npz") as worst, np.load(tmp_path / "o" / "02.npz") as best:
        assert not worst["prediction"].any()
        assert worst["reference"].any()
        assert (best["prediction"] == best["reference"]).all()


def test_a_label_that_is_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        request(label="../../outside")
