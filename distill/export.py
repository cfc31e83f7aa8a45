"""A student leaves for the clinic: as ONNX, and the same in 8 bits; nothing is written that differs from PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from distill.measured import Figures, cases_to_read, joined, read_by_all
from distill.onnx_graph import finished, network_graph, quantised
from imaging.atomic import write_bytes
from imaging.errors import InputError
from imaging.slices import CachedCase, SliceCache
from study import exported
from study.cohorts import lead_inspection, lead_slices, lead_split
from study.plan import Study
from study.prediction import load_student, reader_of
from study.reader import Reader
from study.run import read_study_of
from study.student import WEIGHTS, StudentCard
from study.training import use_threads

FILES = {"PyTorch": WEIGHTS, "ONNX": "student.onnx", "int8": "student-int8.onnx"}
TOLERANCE = {2: 1e-4, 3: 1e-3}
"""A logit of the exported student of slices, or of volumes, is at most so far from PyTorch's: at the bottom of a patch
of 32 voxels an instance norm is over 8 values, and a rounding there is a larger part of their deviation."""
TIED = 0.2
"""Share of slices that may differ by more where a network puts values back where their maxima stood (ENet).

Two maxima can be equal but for rounding, and then their places differ: between two runtimes, and as often between
PyTorch and itself with another batch or without oneDNN (of 233 real slices 3 to ONNX Runtime, 1 and 2 to itself; of
341 slices and another ENet 15 to ONNX Runtime). A graph that is wrong differs in all.
"""
CALIBRATION = 128
"""Training slices at most that the ranges of int8 are taken from."""


@dataclass(frozen=True)
class Export:
    """What was written, and what was seen on the way."""

    folder: Path
    run: Path
    study: Study
    card: StudentCard
    bytes: dict[str, int]
    """Of the files with PyTorch's weights, of ONNX and of int8."""
    figures: dict[str, Figures]
    """Of the same three, each on one thread of this machine."""
    part: str
    """Which of the study lead's scans they read: validation, labelled training or unlabelled training."""


def export(student: Path, out: Path | None = None) -> Export:
    """Write `student.onnx` and `student-int8.onnx` of the student in RUN/distill/<label> into `out`.

    Raises: InputError where the folder holds no student of a run, the study lead's scans are missing, or ONNX Runtime
    does not give what PyTorch gives.
    """
    card, network = load_student(student)
    run, folder = student.resolve().parents[1], out or student / "export"
    study = read_study_of(run)
    if (card.classes, card.preprocess) != (study.task.classes, study.preprocess.model_dump(mode="json")):
        raise InputError("is no student of its run's study", where=student, fix=f"distil it again from {run}")
    card = card.model_copy(update={"modality": study.task.modality})
    use_threads(1)
    slices = lead_slices(study, run)
    part, cases = cases_to_read(slices, study)
    graph = network_graph(network, (study.task.inputs, *study.preprocess.shape))
    with tempfile.TemporaryDirectory() as name:
        files = _files(Path(name), graph, card, study, slices)
        readers = {"PyTorch": reader_of(card, network)}
        readers |= {form: exported.reader_of(file, threads=1) for form, file in files.items()}
        figures = measure(readers, study, run, slices, cases)
        check(figures["ONNX"].far, graph, student, tolerance=tolerance_of(study))
        for file in files.values():
            write_bytes(folder / file.name, file.read_bytes())
        sizes = {form: file.stat().st_size for form, file in {"PyTorch": student / WEIGHTS, **files}.items()}
    return Export(folder, run, study, card, sizes, figures, part)


def _files(folder: Path, graph: ModelProto, card: StudentCard, study: Study, slices: SliceCache) -> dict[str, Path]:
    """The two exported forms, as files in a folder."""
    quick = quantised(graph, slices.images[calibration(study, slices)])
    forms = {"ONNX": (graph, card.label), "int8": (quick, f"{card.label}-int8")}
    for form, (network, label) in forms.items():
        properties = exported.properties_of(card.model_copy(update={"label": label}))
        whole = finished(network, study.preprocess, study.task.inputs, properties)
        (folder / FILES[form]).write_bytes(exported.sealed(whole.SerializeToString()))
    return {form: folder / FILES[form] for form in forms}


def calibration(study: Study, slices: SliceCache) -> NDArray[np.int64]:
    """Numbers of the lead's training slices that int8's ranges are taken from, spread evenly over all."""
    train = lead_split(study, slices)["train"]
    spread = np.unique(np.linspace(0, len(train) - 1, CALIBRATION).round().astype(int))
    return np.asarray(train[spread], np.int64)


def measure(
    readers: Mapping[str, Reader], study: Study, run: Path, slices: SliceCache, cases: list[CachedCase]
) -> dict[str, Figures]:
    """Every form's figures on the lead's own scans, read from their files; the first scan comes twice, to warm up."""
    scans = {case.id: case for case in lead_inspection(study, run).cases}
    rows = [
        read_by_all(readers, scans[case.id].read_image(), slices.part(case).masks if case.labelled else None)
        for case in (cases[0], *cases)
    ]
    return joined(rows[1:])


def tolerance_of(study: Study) -> float:
    """How far a logit of the study's exported student may be from PyTorch's."""
    return TOLERANCE[len(study.preprocess.shape)]


def check(far: list[float], graph: ModelProto, student: Path, *, tolerance: float = TOLERANCE[2]) -> None:
    """InputError unless the logits of ONNX are PyTorch's, as far as the network itself is certain."""
    beyond = np.mean([not difference <= tolerance for difference in far])  # NaN is beyond, too
    scatters = any(node.op_type == "ScatterElements" for node in graph.graph.node)
    if beyond > (TIED if scatters else 0):
        what = f"ONNX Runtime's logits differ from PyTorch's by {max(far):.1e} in {beyond:.0%} of slices"
        raise InputError(what, where=student, fix="nothing was written; try other versions of torch or onnxruntime")
