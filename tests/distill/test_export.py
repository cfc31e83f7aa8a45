"""A student that left: the same masks from one file without torch, a card that tells the truth, and clear refusals."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto

import models
from distill.export import check
from distill.onnx_graph import network_graph
from distill.predict import open_student, predict
from imaging.errors import InputError
from preceptor import main
from study.cohorts import lead_inspection
from study.exported import SEAL, SEALED, UNSEALED, sealed
from study.run import create_or_resume
from study.wire import EvaluateReply
from tests.distill.conftest import MadeRun
from tests.distill.finished_run import ROOT, case
from tests.study.small_student import write_student


@pytest.fixture(scope="module")
def exported(
    templates: Callable[[int, int], MadeRun], tmp_path_factory: pytest.TempPathFactory
) -> tuple[MadeRun, Path, Path]:
    """A run, its student's folder, and the folder that the command made of it."""
    run, folder = templates(3, 5), tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(run.folder, folder)
    create_or_resume(folder, run.study)
    student = write_student(folder / "distill" / "amtkd", run.study.task.classes, run.study.preprocess, modality="")
    reply = EvaluateReply(site="north", label="amtkd", weights_hash="", val=[], test=[case(0.613), case(0.613)])
    reply = reply.model_copy(update={"weights_hash": open_student(student, threads=1).leaflet.weights_hash})
    (folder / "evaluation" / "amtkd").mkdir(parents=True)
    (folder / "evaluation" / "amtkd" / "north.json").write_text(reply.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        main(["export", str(student), "--out", str(student.parent / "shipped")])
    assert not ended.value.code
    return MadeRun(folder, run.study, run.slices, run.teachers), student, student.parent / "shipped"


def scans_of(run: MadeRun) -> Sequence[Path]:
    return [one.image.files[0] for one in lead_inspection(run.study, run.folder).cases]


def test_one_file_gives_the_masks_of_pytorch(exported: tuple[MadeRun, Path, Path]) -> None:
    run, student, shipped = exported
    found = []
    for scan in scans_of(run):
        ours, theirs = predict(scan, student, threads=1), predict(scan, shipped / "student.onnx", threads=1)
        np.testing.assert_array_equal(theirs.labels, ours.labels)
        assert theirs.leaflet.modality == "MR"  # the card of an older student does not say; its study does
        found.append(ours.labels)
    assert all(0 < (labels > 0).mean() < 1 for labels in found)


def test_eight_bits_are_nearly_the_same_and_far_smaller(exported: tuple[MadeRun, Path, Path]) -> None:
    run, _, shipped = exported
    plain, quick = (shipped / name for name in ("student.onnx", "student-int8.onnx"))
    assert quick.stat().st_size < 0.5 * plain.stat().st_size
    masks = [predict(scans_of(run)[0], file, threads=1) for file in (plain, quick)]
    assert 0.9 < (masks[0].labels == masks[1].labels).mean() < 1
    assert [mask.leaflet.label for mask in masks] == ["amtkd", "amtkd-int8"]


def test_the_card_tells_what_is_on_record(exported: tuple[MadeRun, Path, Path]) -> None:
    _, student, shipped = exported
    card = (shipped / "MODEL_CARD.md").read_text()
    assert "| north | 2 | 0.613 ± 0.000 |" in card
    assert f"`student-int8.onnx` (int8) | {(shipped / 'student-int8.onnx').stat().st_size:,} |" in card
    assert open_student(student, threads=1).leaflet.weights_hash in card
    assert "1 validation scan |" in card
    assert "| parameters | 184," in card
    assert "Synthetic" not in card


def test_no_file_tells_of_this_machine(exported: tuple[MadeRun, Path, Path]) -> None:
    for file in exported[2].glob("*"):
        content = file.read_bytes()
        assert str(ROOT).encode() not in content
        assert str(exported[0].folder).encode() not in content


@pytest.mark.slow
def test_an_exported_student_needs_no_torch(exported: tuple[MadeRun, Path, Path], tmp_path: Path) -> None:
    run, _, shipped = exported
    words = [
        "predict",
        str(scans_of(run)[0]),
        "-o",
        str(tmp_path / "m.nii.gz"),
        "--student",
        str(shipped / "student.onnx"),
    ]
    code = (
        f"import sys, preceptor\ntry: preceptor.main({words!r})\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert (tmp_path / "m.nii.gz").exists()


def without_leaflet(model: ModelProto) -> None:
    del model.metadata_props[:]


def of_other_size(model: ModelProto) -> None:
    prop = next(one for one in model.metadata_props if one.key == "preprocess")
    prop.value = prop.value.replace("[40, 48]", "[40, 56]")


def of_more_classes(model: ModelProto) -> None:
    prop = next(one for one in model.metadata_props if one.key == "classes")
    prop.value = '["background", "shell"]'


def without_seal(model: ModelProto) -> None:
    kept = [one for one in model.metadata_props if one.key != SEAL]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_seal, "was exported before such files had a checksum; export the student again"),
        (without_leaflet, "is no student that `preceptor export` wrote: its metadata lacks `label`; export"),
        (of_other_size, r"has intensities .*, 1, 40, 48\] where a student of its metadata has .*, 1, 40, 56\]; export"),
        (of_more_classes, r"has logits .* 3, 40, 48\] where a student of its metadata has logits .* 2, 40, 48\]"),
    ],
)
def test_a_foreign_file_is_refused(
    spoil: Callable[[ModelProto], None], words: str, exported: tuple[MadeRun, Path, Path], tmp_path: Path
) -> None:
    model = onnx.load(exported[2] / "student.onnx")
    for prop in model.metadata_props:
        prop.value = UNSEALED if prop.key == SEAL else prop.value
    spoil(model)
    content = model.SerializeToString()
    (tmp_path / "spoilt.onnx").write_bytes(sealed(content) if SEALED.search(content) else content)
    with pytest.raises(InputError, match=words):
        open_student(tmp_path / "spoilt.onnx", threads=1)


def test_a_flipped_bit_is_noticed_wherever_it_is(exported: tuple[MadeRun, Path, Path], tmp_path: Path) -> None:
    whole = (exported[2] / "student.onnx").read_bytes()
    model = onnx.load_from_string(whole)
    weights = whole.index(max((one.raw_data for one in model.graph.initializer), key=len))
    for place in (0, 40, weights + 3, whole.index(b"background"), whole.index(b"file_sha256") + 20, len(whole) - 1):
        content = bytearray(whole)
        content[place] ^= 1
        (tmp_path / "student.onnx").write_bytes(content)
        with pytest.raises(InputError, match="was changed or damaged after its export: its checksum differs; copy it"):
            open_student(tmp_path / "student.onnx", threads=1)


@pytest.mark.parametrize("content", [b"", b"no network", None])
def test_what_is_no_network_is_told(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "cut.onnx").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an ONNX network; export the student again"):
        open_student(tmp_path / "cut.onnx", threads=1)


def test_a_student_without_its_run_is_told(exported: tuple[MadeRun, Path, Path], tmp_path: Path) -> None:
    alone = shutil.copytree(exported[1], tmp_path / "a" / "b" / "amtkd")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(alone)])
    assert ended.value.code == 1
    assert not (alone / "export").exists()


@pytest.mark.parametrize("name", ["enet", "mobilenetv2"])
def test_the_other_students_leave_as_they_are_in_any_batch(name: str) -> None:
    torch.manual_seed(0)
    network = models.create(name, 1, 3).eval()
    graph = network_graph(network, (1, 40, 48))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(3, 1, 40, 48)
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("scatters", "far", "refused"),
    [
        (False, [1e-5] * 40, False),
        (False, [1e-5] * 39 + [2e-4], True),
        (False, [float("nan")], True),
        (True, [1e-5] * 4 + [0.1], False),
        (True, [1e-5] * 3 + [0.1], True),
    ],
)
def test_a_student_that_differs_is_not_written(scatters: bool, far: list[float], refused: bool) -> None:
    node = onnx.helper.make_node("ScatterElements" if scatters else "Conv", ["x"], ["y"])
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    if not refused:
        check(far, graph, Path("student"))
        return
    with pytest.raises(InputError, match="logits differ from PyTorch's"):
        check(far, graph, Path("student"))
