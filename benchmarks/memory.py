"""Peak memory of a collection and of a distillation job, at two numbers of the student's slices.

    python benchmarks/memory.py [--slices 1000 10000] [--size 64] [--steps 30] [--json]

Everything but the teachers is real: NIfTI scans on disk, the slices' cache, the coordinator's phase `collect` with
three sites in hand at once, the Zarr store, the job's unpacked answers, training, validation and card. The sites'
answers are noise (teachers would cost hours, and live elsewhere), packed as a site packs them.

Each part runs in a process of its own. The figure is the peak of its anonymous memory (RssAnon of /proc/self/status,
looked at every 2 ms): what it allocated. Pages of memory-mapped files are left out: the kernel keeps them while nobody
else wants the memory, and takes them back at no cost. They are told beside it, in the resident set's peak (VmHWM).
Linux only. Exit code 1 where the anonymous peak grows by more than 5 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from imaging.atomic import write_text
from models.contents import arrays_of, kind_of
from server.app import conduct
from server.line import Reply
from study.answers import Answers, AnswersHeader
from study.cards import card_path
from study.envelope import Arrays
from study.plan import Study
from study.run import Run, create_or_resume, read_study_of
from study.wire import Card, Shard

SITES = ("north", "east", "south")
DEPTH = 50
"""Slices of a scan."""
LOOK_S = 0.002
MOST = 1.05


def status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@contextmanager
def watched(peak: dict[str, int]) -> Iterator[None]:
    """Fills in the peaks of what runs until exit, in MiB."""
    over, seen = threading.Event(), [0]

    def look() -> None:
        while not over.wait(LOOK_S):
            seen[0] = max(seen[0], status_kb("RssAnon"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        peak |= {"anonymous": seen[0] // 1024, "resident": status_kb("VmHWM") // 1024}


class Sites:
    """Three sites on a line that answer at once, with noise."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}

    def present(self) -> set[str]:
        return set(SITES)

    def send(self, site: str, action: str, body: bytes) -> str:
        ticket = str(uuid.uuid4())
        self.replies[ticket] = Reply(ticket, answer(site, Shard.unpack(body)).pack())
        return ticket

    def fetch(self, tickets: Iterable[str]) -> list[Reply]:
        return [self.replies.pop(ticket) for ticket in list(tickets) if ticket in self.replies]


def answer(site: str, shard: Shard) -> Answers:
    """Noise of every kind that is asked for, on feature grids of a quarter and the half of a slice."""
    generator = np.random.default_rng(shard.index)
    height, width = shard.assignment.preprocess.size
    classes, arrays = len(shard.assignment.task.classes), Arrays()
    for name in [name for content in shard.wants for name in arrays_of(content)]:
        part, kind = 4 if name.endswith("encoder") else 2, kind_of(name)
        sides = {"C": classes, "P": classes * (classes - 1) // 2, "H": height, "W": width}
        sides |= {"h": height // part, "w": width // part}
        shape = (len(shard.slice_ids), *(sides[letter] for letter in kind.shape))
        arrays[name] = generator.random(shape, np.float32).astype(kind.dtype)
    fingerprint = shard.assignment.preprocess.fingerprint()
    header = AnswersHeader(site=site, index=shard.index, weights_hash=site, fingerprint=fingerprint)
    return Answers(header, shard.slice_ids, arrays)


def write_scans(folder: Path, slices: int, size: int) -> None:
    """Patients of `DEPTH` slices, discs on noise; one in five with its mask."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    for patient in range(slices // DEPTH):
        centre = generator.uniform(0.4 * size, 0.6 * size, 2)
        mask = np.zeros((DEPTH, size, size), np.uint8)
        mask[:, np.hypot(rows - centre[0], columns - centre[1]) < 0.25 * size] = 1
        image = (100 * mask + generator.normal(300, 30, mask.shape)).astype(np.float32)
        for name, array in (("image", image), ("mask", mask))[: 2 if patient % 5 == 0 else 1]:
            nib.save(
                nib.Nifti1Image(array.T, np.diag([-1.0, -1.0, 3.0, 1.0])), folder / f"p{patient:04d}_{name}.nii.gz"
            )


def make_run(folder: Path, slices: int, chosen: argparse.Namespace) -> None:
    """A run folder with scans and three finished teachers' cards."""
    (folder / "scans").mkdir(parents=True)
    write_scans(folder / "scans", slices, chosen.size)
    study = Study.model_validate({
        "name": "memory",
        "task": {"modality": "MR", "classes": ["background", "disc"]},
        "preprocess": {"size": (chosen.size, chosen.size)},
        "sites": [{"name": site} for site in SITES],
        "student": {"model": "espnet", "sources": [{"folder": folder / "scans"}]},
        "distill": {"batch": 8, "threads": 1, "steps": chosen.steps, "validate_every": max(1, chosen.steps // 2)},
    })  # fmt: skip
    create_or_resume(folder, study)
    parts = {"train": 1, "val": 1, "test": 1}
    for site in SITES:
        card = Card(
            site=site, model="enet", options={}, parameters=1, weights_hash=site, epochs=1, finished=True, dice=0.5,
            fingerprint=study.preprocess.fingerprint(), best_epoch=1, patients=parts, slices=parts, set_aside=0,
            history=[],
        )  # fmt: skip
        write_text(card_path(folder, site), card.model_dump_json())


def collect(folder: Path) -> None:
    conduct("collect", read_study_of(folder), Run(folder), Sites())


def distill(folder: Path) -> None:
    from distill.job import run_job  # noqa: PLC0415  (a collection loads no torch)

    run_job(read_study_of(folder), folder, "amtkd")


PARTS = {"collect": collect, "distill": distill}


def measured(part: str, folder: Path) -> dict[str, int]:
    """The peaks of one part, run in a process of its own."""
    words = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found: dict[str, int] = json.loads(told.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs=2, default=[1000, 10000])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        peak: dict[str, int] = {}
        with watched(peak):
            PARTS[chosen.part](chosen.folder)
        print(json.dumps(peak))
        return
    peaks: dict[str, list[dict[str, int]]] = {part: [] for part in PARTS}
    with tempfile.TemporaryDirectory() as place:
        for slices in chosen.slices:
            make_run(Path(place) / str(slices), slices, chosen)
            for part in PARTS:
                peaks[part].append(measured(part, Path(place) / str(slices)))
    ratios = {part: few_many[1]["anonymous"] / few_many[0]["anonymous"] for part, few_many in peaks.items()}
    if chosen.json:
        print(json.dumps({"slices": chosen.slices, "peaks_mib": peaks, "ratios": ratios}))
    for part, (few, many) in {} if chosen.json else peaks.items():
        words = f"{few['anonymous']} MiB at {chosen.slices[0]} slices, {many['anonymous']} at {chosen.slices[1]}"
        print(f"{part}: {words}, ratio {ratios[part]:.3f} (resident {few['resident']} and {many['resident']} MiB)")
    sys.exit(0 if max(ratios.values()) <= MOST else 1)


if __name__ == "__main__":
    main()
