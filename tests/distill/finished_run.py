"""A run directory as its phases leave it, with figures that a test can find again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from study.plan import Distill, Study, read_study
from study.run import create_or_resume
from study.student import StudentCard, write_card
from study.wire import Card, CaseMetrics, Epoch, EvaluateReply

ROOT = Path(__file__).resolve().parents[2]
SITES = ("hospital-a", "hospital-b", "hospital-c")


def case(dice: float | None, hd95: float | None = 3.0) -> CaseMetrics:
    metrics = {"dice": dice, "iou": 0.5, "voe": 0.5, "hd95": hd95, "assd": 1.0}
    return CaseMetrics(metrics={name: {"prostate": value} for name, value in metrics.items()})


def student(label: str) -> StudentCard:
    return StudentCard(
        label=label, scheme=label, study="prostate", seed=0, model="espnet", options={}, classes=["bg", "prostate"],
        preprocess={}, parameters=9, steps=4, best_step=4, val_dice=None, history=[], seconds=1.0,
        weights_hash="b" * 64, teachers=[], settings=Distill(),
    )  # fmt: skip


def amtkd_study() -> Study:
    """The default study, with AMTKD's scheme as the one that is shipped."""
    study = read_study(ROOT / "studies" / "prostate.toml")
    plan = {"scheme": "amtkd", "compare": ["supervised", "mono-teacher", "uniform"]}
    return study.model_copy(update={"distill": study.distill.model_copy(update=plan)})


def finished_run(tmp_path: Path) -> Path:
    """That study, finished, in `tmp_path`: Dice 0.5 without teachers, 0.7 with."""
    run = create_or_resume(tmp_path, amtkd_study())
    for number, site in enumerate(SITES):
        card = Card(
            site=site, model="deeplabv3plus", options={}, parameters=12345, weights_hash="a" * 64, fingerprint="f",
            epochs=2, finished=True, dice=0.8, best_epoch=2, patients={"train": 3, "val": 1, "test": 2},
            slices={"train": 30, "val": 10, "test": 20}, set_aside=0,
            history=[Epoch(epoch=e, loss=1 / e, dice=0.3 * e, seconds=1.0) for e in (1, 2)],
        )  # fmt: skip
        _write(tmp_path / "teachers" / f"{site}.json", card.model_dump_json())
        for label, dice in (("supervised", 0.5), ("amtkd", 0.7)):
            write_card(tmp_path / "distill" / label, student(label))
            reply = EvaluateReply(
                site=site, label=label, weights_hash="b" * 64, val=[],
                test=[case(dice + 0.01 * number), case(dice - 0.01 * number, None)],
            )  # fmt: skip
            _write(tmp_path / "evaluation" / label / f"{site}.json", reply.model_dump_json())
    weights = {"sites": list(SITES), "weights": [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]}
    _write(tmp_path / "distill" / "amtkd" / "weights.json", json.dumps(weights))
    row = {"network": SITES[0], "site": SITES[1], "cases": [case(0.123).model_dump()]}
    _write(tmp_path / "cross.json", json.dumps([row]))
    _write(tmp_path / "traffic.json", json.dumps({SITES[0]: {"sent": 1_000_000, "received": 2_500_000, "messages": 4}}))
    run.event("phase-ended", phase="train", seconds=61.0, fault=None)
    run.event("site-left-out", phase="train", site=SITES[2], cause="silent for 5 s", remedy="start it")
    folder = tmp_path / "hospitals" / SITES[0] / "workspace" / "overlays" / "amtkd"
    folder.mkdir(parents=True)
    mask = np.zeros((2, 13, 17), np.uint8)
    mask[0, 3:7, 5:11] = 1
    image = np.random.default_rng(0).normal(size=mask.shape).astype(np.float32)
    np.savez(folder / "0.npz", image=image, reference=mask, prediction=np.roll(mask, 1, axis=2))
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
