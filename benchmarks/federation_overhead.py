"""Wall time of a federation over that of the same training and answering in plain loops in one process.

    python benchmarks/federation_overhead.py [STUDY] [--repeat 1] [--json]

Both begin at scans on disk, with the student's slices prepared, train every teacher to its last epoch, and then answer
every shard. The federation is `preceptor simulate --until collect` with all its processes, TLS, checks, audit and
store; its start (imports, keys, certificates) is told apart, as the loops' own imports are not counted. The loops are
our own functions called in turn with all cores, without a network, a store or a second process. Both run on the same
machine in turn, so their ratio means something on a busy one too. Hospitals train beside each other in a federation,
so on several cores the ratio can be below 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from client.scans import open_scans
from client.site import SiteConfig
from client.status import Status
from client.teacher import load_teacher
from client.training import Course
from imaging.slices import SliceCache
from server.hospitals import cores, scans_folder
from study.cohorts import assignment, lead_slices, make_shard, shards
from study.plan import FolderSource, Study
from study.run import events, read_study_of
from study.training import use_threads


def federation(study: Path, folder: Path) -> dict[str, float]:
    """Seconds of the start and of all after it to the last answer, with phantoms and the student's slices there before.

    What lies between the phases counts: Flower starts a ServerApp for each.
    """
    for until in ("scans", "collect"):
        words = ["simulate", str(study), "--out", str(folder), "--until", until]
        subprocess.run([sys.executable, "-m", "preceptor", *words], check=True, stdout=subprocess.DEVNULL)
    log = events(folder)
    [up] = [event for event in log if event["kind"] == "federation-started"]
    trained, collected = (
        next(event["time"] for event in log if event["kind"] == "phase-ended" and event["phase"] == phase)
        for phase in ("train", "collect")
    )
    return {"start": up["seconds"], "train": trained - up["time"], "collect": collected - trained}


def loops(study: Study, folder: Path, workspace: Path) -> dict[str, float]:
    """Seconds of training and answering site after site, on the scans that the federation had."""
    started = time.monotonic()
    sites = [_config(study, folder, workspace, site.name) for site in study.sites]
    for config in sites:
        _train(study, config)
    trained = time.monotonic()
    cache = lead_slices(study, folder)
    for config in sites:
        _answer(study, config, cache)
    return {"train": trained - started, "collect": time.monotonic() - trained}


def _train(study: Study, config: SiteConfig) -> None:
    use_threads(cores())
    asked = assignment(study, config.name)
    Course(config, asked, open_scans(config, asked)).teach(asked.teacher.epochs, Status(config.name))


def _answer(study: Study, config: SiteConfig, cache: SliceCache) -> None:
    asked = assignment(study, config.name)
    teacher = load_teacher(config, asked)
    for index, ids in enumerate(shards(study, cache)):
        teacher.answer(make_shard(asked, cache, index, ids, study.answers.contents))


def _config(study: Study, folder: Path, workspace: Path, name: str) -> SiteConfig:
    source = study.site(name).source
    own = {"patients": source.patients, "masks": source.masks} if isinstance(source, FolderSource) else {}
    data = source.folder if isinstance(source, FolderSource) else scans_folder(folder, name)
    return SiteConfig(name=name, data=data, workspace=workspace / name, socket=workspace / "none", **own)


def measure(study: Path, folder: Path) -> dict[str, float]:
    """Both once, and their ratio without and with the start."""
    federated = federation(study, folder)
    plain = loops(read_study_of(folder), folder, folder / "loops")
    work, base = federated["train"] + federated["collect"], sum(plain.values())
    found = {f"federation_{part}_s": seconds for part, seconds in federated.items()}
    found |= {f"loops_{part}_s": seconds for part, seconds in plain.items()}
    return found | {"ratio": work / base, "ratio_with_start": (work + federated["start"]) / base}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, default=Path("studies/prostate.toml"))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    for _ in range(chosen.repeat):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(chosen.study, Path(folder) / "run")
        if chosen.json:
            print(json.dumps(found))
        else:
            print("\n".join(f"{name:26} {value:8.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
