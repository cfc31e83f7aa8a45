"""What the stages of a network trained by DSD have learned from one another: Dice of each stage's head.

    python benchmarks/dsd_stages.py RUN LABEL [LABEL …] [--json]

Of each finished `dsd` student in RUN/distill: with its best weights, the Dice of its output `y` and of every head, mean
over the classes but the background, each over the voxels of all validation patches; and how far a head's logits spread
over a patch (their standard deviation, the mean over classes and patches), which is small where it says the same
everywhere.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from distill.batches import plain
from distill.job import prepared
from distill.replay import read_finished
from distill.schemes.alone import ByItself
from imaging.metrics import mean_dice
from models.bottleneck import split
from study.checkpoint import load_best
from study.learners.dsd import Dsd

BATCH = 8


@torch.no_grad()
def stages(run: Path, label: str) -> dict[str, tuple[float, float]]:
    """Stage → Dice and spread."""
    found = read_finished(run, label)
    job = prepared(found.study, run, found.card.scheme, found.card.seed)
    learner = job.scheme.made if isinstance(job.scheme, ByItself) else None
    if not isinstance(learner, Dsd):
        raise SystemExit(f"`{label}` was trained by `{found.card.scheme}`; name students of `dsd`")
    learner.load_state_dict(load_best(found.folder))
    learner.eval()
    ids, classes = job.slices.ids(job.validation), found.study.classes
    guesses: dict[str, list[Tensor]] = {}
    spreads: dict[str, list[Tensor]] = {}
    targets = []
    for start in range(0, len(ids), BATCH):
        batch = plain(job.slices, None, ids[start : start + BATCH])
        targets.append(split(batch.masks[:, None])[:, 0])
        for name, logits in learner.outputs(batch.images).items():
            guesses.setdefault(name, []).append(logits.argmax(1).to(torch.uint8))
            spreads.setdefault(name, []).append(logits.std(2).mean(1))
    target = torch.cat(targets).numpy()
    return {
        name: (mean_dice(torch.cat(guess).numpy(), target, classes=classes), float(torch.cat(spreads[name]).mean()))
        for name, guess in guesses.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("labels", nargs="+")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = {label: stages(chosen.run, label) for label in chosen.labels}
    if chosen.json:
        print(json.dumps(found))
        return
    for label, rows in found.items():
        print(label)
        for name, (dice, spread) in rows.items():
            print(f"  {name:2}  Dice {dice:.3f}  spread {spread:5.2f}")


if __name__ == "__main__":
    main()
