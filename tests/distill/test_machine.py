"""On what a student is trained: several processes are one training, and what a machine has not is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from distill.batches import TrainingBatches
from distill.job import run_job
from distill.machine import fabric_of
from imaging.errors import InputError
from study.distill_tables import Distill
from study.run import events

if TYPE_CHECKING:
    from tests.distill.conftest import MadeRun

MakeRun = Callable[..., "MadeRun"]
ROOT = Path(__file__).resolve().parents[2]
ALONE = [sys.executable, "-m", "preceptor"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "preceptor"]


@pytest.mark.slow
def test_two_processes_train_one_student(make_run: MakeRun) -> None:
    """Whoever starts them: the first one, or torchrun."""
    run = make_run()
    hashes = set()
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    for label, command in (("one", ALONE), ("two", TORCHRUN)):
        words = [*command, "distill", str(run.folder), "--set", "devices=2", "--label", label, "--json"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=quiet)
        assert done.returncode == 0, done.stderr
        card = json.loads(done.stdout)  # once, by the first process
        hashes.add(card["weights_hash"])
        assert card["made_on"]["processes"] == "2"
        log = events(run.folder / "distill" / label)
        assert [event["step"] for event in log if event["kind"] == "step"] == list(range(1, 8))
    assert len(hashes) == 1
    assert run_job(run.study, run.folder, "amtkd").weights_hash not in hashes


def test_processes_share_every_batch(make_run: MakeRun) -> None:
    run = make_run()
    ids = np.arange(len(run.slices.images), dtype=np.int64)
    whole, *parts = (TrainingBatches(run.slices, ids, None, 0, 4, share=share) for share in ((0, 1), (0, 2), (1, 2)))
    for step in range(5):
        seen = torch.cat([part[step].labelled for part in parts])
        assert len(seen) == 4
        assert seen.sum() == whole[step].labelled.sum()
    assert not torch.equal(parts[0][0].images, parts[1][0].images)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"devices": 3}, r"`batch` \(16\) cannot be shared evenly by 3 devices"),
        ({"devices": 2, "nodes": 3}, "evenly by 2 devices on each of 3 nodes"),
        ({"precision": "16-mixed"}, "16-mixed needs a GPU"),
    ],
)
def test_what_cannot_go_together_is_refused_with_the_study(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Distill(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("settings", [{"device": "cuda"}, {"device": "auto", "precision": "16-mixed"}])
def test_a_gpu_that_is_not_there_is_told(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="GPU"):
        fabric_of(Distill(**settings))


def test_mixed_precision_gives_another_student_with_a_float_loss(make_run: MakeRun) -> None:
    run = make_run()
    mixed = run_job(run.changed(precision="bf16-mixed"), run.folder, "amtkd", label="mixed")
    again = run_job(run.changed(precision="bf16-mixed"), run.folder, "amtkd", label="again")
    assert mixed.weights_hash == again.weights_hash
    assert mixed.weights_hash != run_job(run.study, run.folder, "amtkd").weights_hash
