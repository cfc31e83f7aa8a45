"""What DSD and MOD add to a training step of a 3-D network, and whether patches come faster than it takes them.

    python benchmarks/volume_step.py [--rounds 15] [--only dynunet-48] [--classes 3] [--json]

Of each network a plain learner, `dsd` and `mod` take turns on one thread: forward, losses, backward, Adam, and what
the learner does after a step. The figure is the median over rounds of a step's processor time over the plain one's in
the same round, with the quartiles. The batches are noise; what MOD and its plain learner learn on masks is the same
(Dice and focal loss), and so for DSD (Dice and cross-entropy).

The loader: crops of a cache of synthetic scans, augmented as `studies/hippocampus-alone.toml` asks, in a second of
one thread, over the batches that a plain step of the small DynUNet takes in a second. Exit code 1 where a figure is
beyond its aim: DSD 1.15 on DynUNet at 48³ and on V-Net, 1.25 on the small DynUNet at 32³; MOD with one view masked 1.9,
with both (the paper, and the default) none; loader 3. MOD's heads are the small ones, `[1024, 256, 64]`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

import models
from client.training import TrainSlices
from imaging.cohort import inspect
from imaging.slices import SliceCache
from study.learners import Learner, Shown, create
from study.mod_table import SMALL_HEADS
from study.plan import Study, Teacher, read_study

BATCH = 2
ONE_MASKED = "mod, 1 masked"
STUDY = Path(__file__).parents[1] / "studies" / "hippocampus-alone.toml"


@dataclass(frozen=True)
class Setting:
    """A network at a size, the most that each learner may cost, and `[distill.mod]`."""

    model: str
    options: dict[str, int]
    side: int
    aims: dict[str, float]
    mod: dict[str, object]


SETTINGS = {
    "dynunet-48": Setting("dynunet", {}, 48, {"dsd": 1.15, ONE_MASKED: 1.9}, {"heads": SMALL_HEADS}),
    "small-dynunet-32": Setting(
        "dynunet", {"width": 8}, 32, {"dsd": 1.25, ONE_MASKED: 1.9}, {"heads": SMALL_HEADS, "stage": "E4"}
    ),
    "vnet-48": Setting("vnet", {}, 48, {"dsd": 1.15}, {}),
}
LOADER = 3.0


def learners_of(setting: Setting, classes: int) -> dict[str, tuple[Learner, str]]:
    """Name → learner and the one that it is compared with."""
    size = (setting.side,) * 3
    shown = Shown(size, 1, classes)

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return models.create(setting.model, 1, classes, size=size, **setting.options)

    basic = Teacher.model_validate({"dsd": {"variant": "basic"}})
    found = {"plain": (create("dsd", network(), basic, shown, steps=100), "plain")}
    found["dsd"] = create("dsd", network(), Teacher(), shown, steps=100), "plain"
    if setting.mod:
        bare = Teacher.model_validate({"mod": {"tokenizer": False, "predictor": False}})
        found["plain-focal"] = create("mod", network(), bare, shown, steps=100), "plain-focal"
        for views in (1, 2):
            tables = Teacher.model_validate({"mod": {**setting.mod, "masked_views": views}})
            found[f"mod, {views} masked"] = create("mod", network(), tables, shown, steps=100), "plain-focal"
    return found


def stepper(learner: Learner, side: int, classes: int) -> Callable[[], None]:
    """One training step on noise."""
    adam = torch.optim.Adam([weight for weight in learner.parameters() if weight.requires_grad], lr=1e-4)
    images, masks = torch.randn(BATCH, 1, *[side] * 3), torch.randint(classes, (BATCH, *[side] * 3))
    learner.train()
    done = 0

    def step() -> None:
        nonlocal done
        torch.stack(list(learner.loss(images, masks).values())).sum().backward()  # type: ignore[no-untyped-call]
        adam.step()
        adam.zero_grad()
        done += 1
        learner.settle(done)

    return step


def measure(setting: Setting, rounds: int, classes: int) -> dict[str, list[float]]:
    """Name → ratio of each round."""
    learners = learners_of(setting, classes)
    steps = {name: stepper(learner, setting.side, classes) for name, (learner, _) in learners.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            started = time.process_time()
            step()
            seconds[name].append(time.process_time() - started)
    return {
        name: [mine / theirs for mine, theirs in zip(seconds[name][1:], seconds[than][1:], strict=True)]
        for name, (_, than) in learners.items()
        if than != name
    }


def loader_ratio(rounds: int) -> float:
    """How many batches are made in the time that the small DynUNet takes for one."""
    study = read_study(STUDY)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "scans"
        folder.mkdir()
        cache = cache_of(study, folder)
        batches = TrainSlices(cache, cache.ids(cache.cases), BATCH, 0, study.augment)
        classes = len(study.task.classes)
        step = stepper(learners_of(SETTINGS["small-dynunet-32"], classes)["plain"][0], 32, classes)
        ratios = []
        for number in range(rounds + 1):
            started = time.process_time()
            batches[number]
            between = time.process_time()
            step()
            ratios.append((time.process_time() - between) / (between - started))
    return float(np.median(ratios[1:]))


def cache_of(study: Study, folder: Path) -> SliceCache:
    """Ten synthetic scans of the size of a hippocampus crop: an ellipsoid of two classes on noise."""
    generator, shape = np.random.default_rng(0), (35, 51, 35)
    away = np.linalg.norm(
        (np.indices(shape) - np.array([[[[17]]], [[[25]]], [[[17]]]])) / [[[[8]]], [[[14]]], [[[6]]]], axis=0
    )
    mask = (away < 1).astype(np.uint8)
    mask[:, 25:][mask[:, 25:] > 0] = 2
    for number in range(10):
        image = (300 + 100.0 * mask + generator.normal(0, 40, shape)).astype(np.float32)
        for name, array in (("", image), ("_seg", mask)):
            nib.save(nib.Nifti1Image(array.T, np.diag([-1.0, -1, 1, 1])), folder / f"case{number}{name}.nii.gz")
    classes = len(study.task.classes)
    cases = inspect(folder, classes=classes).cases
    return SliceCache.build(cases, study.preprocess, folder.with_name("cache"), classes=classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=SETTINGS, action="append")
    parser.add_argument("--classes", type=int, default=3, help="background included")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    beyond = False
    for name in chosen.only or SETTINGS:
        for learner, ratios in measure(SETTINGS[name], chosen.rounds, chosen.classes).items():
            low, median, high = np.percentile(ratios, [25, 50, 75]).tolist()
            aim = SETTINGS[name].aims.get(learner)
            found[f"{name}: {learner}"] = {"median": median, "low": low, "high": high}
            beyond |= aim is not None and median > aim
            if not chosen.json:
                said = f", aim {aim}" if aim else ""
                print(f"{name}: {learner} {median:.2f} times plain ({low:.2f} to {high:.2f}){said}", flush=True)
    loader = loader_ratio(4 * chosen.rounds)
    if chosen.json:
        print(json.dumps({"steps": found, "loader": loader}))
    else:
        print(f"loader: {loader:.1f} batches in the time of one step, aim {LOADER:g}")
    sys.exit(1 if beyond or loader < LOADER else 0)


if __name__ == "__main__":
    main()
