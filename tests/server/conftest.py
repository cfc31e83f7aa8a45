"""Benches for the coordinator's logic: see loopback.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity

from server import exchange, roster
from server.train import Training
from tests.server.loopback import Bench, make_study


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients of the study lead, 5 slices each of 13 × 17 pixels, with masks."""
    folder = tmp_path_factory.mktemp("lead")
    rng = np.random.default_rng(0)
    for patient in range(4):
        affine = np.diag([2.0, 2.0, 3.0, 1.0])
        image = rng.normal(100, 10, (17, 13, 5)).astype(np.float32)
        mask = np.zeros((17, 13, 5), np.uint8)
        mask[6:11, 4:9, 1:4] = 1
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"patient{patient}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, affine), folder / f"patient{patient}_seg.nii.gz")
    return folder


@pytest.fixture
def make_bench(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    """Makes benches in one run folder, one after the other, with the federation's settings given."""
    monkeypatch.setattr(exchange, "POLL_S", 0.01)
    monkeypatch.setattr(exchange, "AGAIN_S", 0.05)
    monkeypatch.setattr(roster, "LOOK_S", 0.01)
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    made: list[Bench] = []

    def make(**federation: Any) -> Bench:
        made.append(Bench(tmp_path / "run", make_study(scans, **federation)))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def trained(make_bench: Callable[..., Bench]) -> Callable[..., Bench]:
    """Makes a bench whose teachers have finished; nothing was asked of its desks since."""

    def make(**federation: Any) -> Bench:
        bench = make_bench(**federation)
        bench.conduct(Training.name)
        for desk in bench.desks.values():
            desk.asked.clear()
            desk.sent.clear()
        return bench

    return make
