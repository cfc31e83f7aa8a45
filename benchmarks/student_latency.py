"""What the exported forms of the three students cost: time over PyTorch's, bytes, and Dice of int8.

    python benchmarks/student_latency.py --size 128 --slices 16 [--turns 9] [--threads 1]
    python benchmarks/student_latency.py --run runs/prostate --students amtkd uniform

Without a run: fresh students on a made-up scan, since time does not depend on what they have learned. PyTorch, ONNX and
int8 read the same scan by turns, on one thread and on all, from its intensities to its logits, normalisation included;
"network" is the network alone. Figures are medians, over turns, of the ratio to PyTorch in the same turn: of processor
time on one thread, which other processes disturb less, and of wall time on all.

With a run: students in RUN/distill are exported as `preceptor export` does it, and read the scans of a simulation's
hospitals, from which no student has learned; Dice is the mean over patients and foreground classes, on the network's
grid, and the spread of int8's difference is over patients.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

import models
from distill.export import FILES, TOLERANCE, export
from distill.measured import joined, read_by_all
from distill.onnx_graph import finished, network_graph, quantised
from distill.records import phantoms_of
from imaging.cohort import Case, inspect, select
from imaging.preprocess import Preprocess, Sampled, prepare, sample
from imaging.volume import Volume
from server.hospitals import scans_folder
from study import exported
from study.exported import BETWEEN, INPUT
from study.plan import FolderSource, Study
from study.prediction import load_student, logits_of, reader_of
from study.run import read_study_of
from study.training import use_threads

Forms = dict[str, Callable[[], object]]


def scan_of(size: int, slices: int) -> Sampled:
    """A bright disc on noise, so many slices of `size` × `size`."""
    rows, columns = np.mgrid[:size, :size] - size / 2
    noise = np.random.default_rng(0).normal(300, 30, (slices, size, size))
    array = (noise + 200 * (np.hypot(rows, columns) < size / 4)).astype(np.float32)
    return sample(Volume(array, np.eye(4)[[2, 1, 0, 3]]), Preprocess(size=(size, size)))


def write_files(network: nn.Module, folder: Path, scan: Sampled) -> None:
    """Both forms as `preceptor export` ships them, and their networks alone."""
    plan = Preprocess(size=(scan.grid.rows.size, scan.grid.columns.size))
    graph = network_graph(network, (1, *plan.size))
    for form, one in {"ONNX": graph, "int8": quantised(graph, scan.normalised())}.items():
        onnx.save(one, folder / f"network-{FILES[form]}")
        onnx.save(finished(one, plan, 1, {}), folder / FILES[form])


def forms_of(network: nn.Module, folder: Path, scan: Sampled, threads: int) -> Forms:
    """What is timed: PyTorch, ONNX and int8, and the networks alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    images, plan = scan.normalised(), Preprocess(size=(scan.grid.rows.size, scan.grid.columns.size))
    forms: Forms = {
        "PyTorch": lambda: logits_of(network, scan.normalised(), plan),
        "PyTorch network": lambda: logits_of(network, images, plan),
    }
    for form in ("ONNX", "int8"):
        whole, alone = (
            onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
            for file in (FILES[form], f"network-{FILES[form]}")
        )
        forms[form] = partial(whole.run, None, {INPUT: scan.intensities})
        forms[f"{form} network"] = partial(alone.run, None, {BETWEEN: images.astype(np.float32)})
    return forms


def seconds(forms: Forms, turns: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Of every form, turn by turn; the first turn warms up."""
    found: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(turns + 1):
        for form, run in forms.items():
            started = clock()
            run()
            found[form].append(clock() - started)
    return {form: times[1:] for form, times in found.items()}


def ratio(found: Mapping[str, list[float]], form: str, to: str) -> str:
    """Median ratio, and the lowest and highest turn."""
    ratios = [a / b for a, b in zip(found[form], found[to], strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def latency(size: int, slices: int, turns: int, counts: list[int]) -> None:
    print(f"{slices} slices of {size} x {size}; ratios to PyTorch: median (lowest to highest) of {turns} turns\n")
    columns = [f"{threads} thread{'s' if threads > 1 else ''} | network alone" for threads in counts]
    print(f"| student | form | bytes | {' | '.join(columns)} |\n|---|---|--:|{'--:|--:|' * len(counts)}")
    scan = scan_of(size, slices)
    for name in models.names("student", dims=2):
        torch.manual_seed(0)
        network = models.create(name, 1, 2).eval()
        with tempfile.TemporaryDirectory() as folder:
            write_files(network, Path(folder), scan)
            found = []
            for threads in counts:
                use_threads(threads)
                clock = time.process_time if threads == 1 else time.perf_counter
                found.append(seconds(forms_of(network, Path(folder), scan, threads), turns, clock))
            weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
            base = [
                f"{1000 * median(times[form]):.0f} ms" for times in found for form in ("PyTorch", "PyTorch network")
            ]
            print(f"| {name} | PyTorch | {weights:,} | {' | '.join(base)} |", flush=True)
            for form in ("ONNX", "int8"):
                cells = [ratio(times, form + kind, f"PyTorch{kind}") for times in found for kind in ("", " network")]
                size_of = (Path(folder) / FILES[form]).stat().st_size
                print(f"| {name} | {form} | {size_of:,} | {' | '.join(cells)} |", flush=True)


def hospital_cases(study: Study, run: Path) -> list[Case]:
    """Every outlined scan of every hospital of a simulation."""
    found = []
    for site in study.sites:
        folder = site.source.folder if isinstance(site.source, FolderSource) else scans_folder(run, site.name)
        patients = site.source.patients if isinstance(site.source, FolderSource) else None
        found += select(inspect(folder, classes=study.classes).cases, patients, None)
    return [case for case in found if case.mask is not None]


def dice(run: Path, students: list[str]) -> None:
    study = read_study_of(run)
    cases = hospital_cases(study, run)
    print(f"{phantoms_of(study) or 'Real scans.'} {len(cases)} patients of the hospitals\n")
    print("| student | network | PyTorch | ONNX | int8 | int8 costs, points |\n|---|---|--:|--:|--:|--:|")
    for label in students:
        with tempfile.TemporaryDirectory() as folder:
            done = export(run / "distill" / label, Path(folder))
            readers = {"PyTorch": reader_of(*load_student(run / "distill" / label))}
            readers |= {form: exported.reader_of(Path(folder) / FILES[form], threads=1) for form in ("ONNX", "int8")}
            figures = joined([read_by_all(readers, *pair_of(case, study)) for case in cases])
        costs = 100 * (np.array(figures["PyTorch"].dice) - np.array(figures["int8"].dice))
        cells = " | ".join(f"{figures[form].mean_dice:.4f}" for form in FILES)
        spread = f"{costs.mean():+.2f} ± {costs.std(ddof=1):.2f}"
        print(f"| {label} | {done.card.model} | {cells} | {spread} |", flush=True)
        far = np.array(figures["ONNX"].far)
        print(
            f"{label}: {(far > TOLERANCE).sum()} of {len(far)} slices beyond {TOLERANCE:g}", file=sys.stderr, flush=True
        )


def pair_of(case: Case, study: Study) -> tuple[Volume, NDArray[np.uint8]]:
    """A scan, and its mask on the network's grid."""
    image = case.read_image()
    return image, prepare(image, case.read_mask(), study.preprocess, classes=study.classes).masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--run", type=Path, help="a simulation's run folder: Dice instead of time")
    parser.add_argument("--students", nargs="+", default=["amtkd"], help="folders under RUN/distill")
    chosen = parser.parse_args()
    if chosen.run:
        dice(chosen.run, chosen.students)
    else:
        latency(chosen.size, chosen.slices, chosen.turns, chosen.threads)


if __name__ == "__main__":
    main()
