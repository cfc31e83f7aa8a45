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
from distill.schemes.alone import Dsd as Scheme
from models.bottleneck import split
from study.checkpoint import load_best
from study.learners.dsd import Dsd

BATCH = 8


@torch.no_grad()
def stages(run: Path, label: str) -> dict[str, tuple[float, float]]:
    """Stage → Dice and spread."""
    found = read_finished(run, label)
    job = prepared(found.study, run, found.card.scheme, found.card.seed)
    assert isinstance(job.scheme, Scheme), f"`{label}` was not trained by `dsd`"
    learner = job.scheme.made
    assert isinstance(learner, Dsd)
    learner.load_state_dict(load_best(found.folder))
    learner.eval()
    ids, classes = job.slices.ids(job.validation), found.study.classes
    both: dict[str, Tensor] = {}
    spread: dict[str, list[float]] = {}
    for start in range(0, len(ids), BATCH):
        batch = plain(job.slices, None, ids[start : start + BATCH])
        target = split(batch.masks[:, None].long())[:, 0]
        for name, logits in learner.outputs(batch.images).items():
            guess = logits.argmax(1)
            counts = [
                [((guess == one) & (target == one)).sum(), (guess == one).sum() + (target == one).sum()]
                for one in range(1, classes)
            ]
            both[name] = both.get(name, torch.zeros(classes - 1, 2)) + torch.tensor(counts)
            spread.setdefault(name, []).append(float(logits.std(2).mean()))
    return {
        name: (float((2 * counts[:, 0] / counts[:, 1]).mean()), sum(spread[name]) / len(spread[name]))
        for name, counts in both.items()
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
