"""Patches of volumes through the same store, schemes, export and prediction as slices."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import models
from client.teacher import Teacher
from distill import schemes
from distill.answered import open_rounds
from distill.batches import plain
from distill.export import export
from distill.job import new_scheme, prepare, run_job
from distill.model_card import write_model_card
from distill.onnx_graph import network_graph
from distill.predict import predict
from distill.schemes import scheme_class
from distill.sources import LiveTeachers
from imaging.errors import InputError
from models.contents import CONTENTS
from models.knowledge import attention_map, region_contrast
from models.memory import training_bytes
from study import forecast
from study.answers import Answers
from study.cohorts import assignment, lead_slices, make_shard
from study.encoding import decoded
from study.learners import ALONE
from study.mod_table import Mod
from study.plan import Study
from study.prediction import load_student
from study.run import create_or_resume
from study.training import Progress
from study.views import numbered, pictures
from study.wire import Shard
from tests.distill.conftest import MadeRun

PATCH = (16, 16, 32)
TEACHERS = ("north", "east")
TAUGHT = [name for name in schemes.names() if scheme_class(name).volumes and name not in {*ALONE, "probe"}]
FLOAT16: Any = {"atol": 4e-3, "rtol": 2e-3}
"""Two steps of float16: batches of other sizes differ in their last bits."""


def write_ball(folder: Path, patient: int, generator: np.random.Generator) -> None:
    """One patient's two-channel scan of 19 × 24 × 36 voxels and its mask: a ball with a core, on noise."""
    shape = (19, 24, 36)
    middle = generator.uniform(0.45, 0.55, 3) * shape
    away = np.linalg.norm(np.indices(shape) - middle[:, None, None, None], axis=0)
    mask = (away < 8).astype(np.uint8) + (away < 4)
    both = np.stack([300 + 100 * (mask > 0), 200 + 80 * (mask > 1)], axis=3) + generator.normal(0, 30, (*shape, 2))
    for name, array in (("image", both.astype(np.float32)), ("mask", mask.astype(np.uint8))):
        axes = (2, 1, 0, 3)[: array.ndim]
        nib.save(
            nib.Nifti1Image(array.transpose(axes), np.diag([-1.0, -1, 2, 1])), folder / f"p{patient}_{name}.nii.gz"
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """A run whose two sites' 3-D teachers, untrained, have answered about a volumetric student's patches."""
    scans, folder = tmp_path_factory.mktemp("volumes"), tmp_path_factory.mktemp("volume-run")
    generator = np.random.default_rng(3)
    for patient in range(5):
        write_ball(scans, patient, generator)
    study = Study.model_validate({
        "name": "volumes",
        "task": {"modality": "MR", "classes": ["background", "shell", "core"], "channels": ["t1", "t2"]},
        "preprocess": {"size": (32, 48), "patch": PATCH, "normalise": "min-max"},
        "augment": {"elastic": 0.5},
        "sites": [{"name": name} for name in TEACHERS],
        "answers": {"contents": list(CONTENTS)},
        "teacher": {"model": "dynunet", "options": {"width": 4}},
        "student": {"model": "dynunet", "options": {"width": 4}, "sources": [{"folder": scans, "masks": 4}]},
        "distill": {
            "steps": 3, "batch": 2, "validate_every": 2, "threads": 1, "lr": 0.003, "schedule": "cosine",
            "ca_mkd": {"hints": 1.0}, "amtml_kd": {"hints": 1.0},
            "mod": {"stage": "E4", "heads": (16, 8, 8), "ship": "teacher", "ema": 0.5},
        },
        "federation": {"shard_slices": 5},
    })  # fmt: skip
    torch.manual_seed(1)
    networks: dict[str, nn.Module] = {
        name: models.create("dynunet", 2, 3, size=PATCH, width=4).eval() for name in TEACHERS
    }
    create_or_resume(folder, study)
    run = MadeRun(folder, study, lead_slices(study, folder), networks)
    torch.set_num_threads(1)
    for site in TEACHERS:
        run.answer(site)
    return run


def test_stored_and_live_teachers_say_the_same_of_patches(made: MadeRun) -> None:
    needs = scheme_class("amtkd")(nn.Identity(), made.study.distill, 3).needs
    (stored,) = open_rounds(made.study, made.folder, made.slices, needs)
    live = LiveTeachers(made.teachers, made.slices, classes=3)
    ids = np.array([0, 4, 7])
    for one, other in zip((plain(made.slices, stored, ids),), (plain(made.slices, live, ids),), strict=True):
        assert one.images.shape == (3, 2, *PATCH)
        assert one.teachers is not None
        assert other.teachers is not None
        assert one.teachers.logits.shape == (3, 2, 3, *PATCH)
        assert_close(one.teachers.logits, other.teachers.logits, **FLOAT16)
        for told, also in zip(one.teachers.told, other.teachers.told, strict=True):
            assert told.keys() == also.keys() == {
                f"{kind}/{tap}" for kind in ("attention", "contrast", "valid") for tap in ("encoder", "decoder")
            }  # fmt: skip
            for name, array in told.items():
                assert_close(array, also[name], **FLOAT16)


@pytest.mark.parametrize("scheme", TAUGHT)
def test_a_student_of_volumes_is_trained_and_the_same_again(scheme: str, made: MadeRun) -> None:
    card = run_job(made.study, made.folder, scheme)
    again = run_job(made.study, made.folder, scheme, label=f"{scheme}-again")
    assert card.weights_hash == again.weights_hash
    assert card.channels == ["t1", "t2"]
    assert card.val_dice is not None


def test_a_student_of_volumes_reads_a_whole_scan_in_both_its_forms(made: MadeRun, tmp_path: Path) -> None:
    run_job(made.study, made.folder, "supervised")
    folder = made.folder / "distill" / "supervised"
    scan = next(Path(made.study.student.sources[0].folder).glob("p0_image*"))  # type: ignore[union-attr]
    found = predict(scan, folder)
    assert found.labels.shape == (19, 24, 36)
    done = export(folder, tmp_path)
    assert done.figures["ONNX"].dice == pytest.approx(done.figures["PyTorch"].dice, abs=1e-3)
    assert (predict(scan, tmp_path / "student.onnx").labels == found.labels).mean() > 0.999
    card = write_model_card(done).read_text()
    (taken,) = onnxruntime.InferenceSession(str(tmp_path / "student.onnx")).get_inputs()
    assert f"One input, `{taken.name}` ({', '.join(map(str, taken.shape))}), float32" in card
    assert "patch by patch" in card
    assert "Channels, in this order: t1, t2." in card
    assert "slices about 2 mm apart" in card
    assert "lowest to highest value become [0, 1], each channel by itself" in card
    thick: Any = nib.load(scan)
    nib.save(nib.Nifti1Image(np.asarray(thick.dataobj), thick.affine @ np.diag([1, 1, 5, 1])), tmp_path / "thick.nii")
    with pytest.raises(InputError, match=r"slices lie 10\.00 mm apart, the student's 2\.00 mm"):
        predict(tmp_path / "thick.nii", folder)
    one_channel = tmp_path / "one.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((36, 24, 19), np.float32), np.eye(4)), one_channel)
    with pytest.raises(InputError, match="1 channel in the file, and the study names 2"):
        predict(one_channel, folder)


@pytest.mark.parametrize("scheme", ["dsd", "missu", "mod"])
def test_what_teaches_a_network_beside_its_masks_survives_an_interruption(scheme: str, made: MadeRun) -> None:
    expected = run_job(made.study, made.folder, scheme, label=f"{scheme}-whole")

    def interrupt(done: Progress) -> None:
        if done.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(made.study, made.folder, scheme, label=f"{scheme}-halves", progress=interrupt)
    assert run_job(made.study, made.folder, scheme, label=f"{scheme}-halves").weights_hash == expected.weights_hash
    card, network = load_student(made.folder / "distill" / f"{scheme}-whole")
    bare = models.create("dynunet", 2, 3, size=PATCH, width=4)
    assert card.parameters == sum(weight.numel() for weight in bare.parameters())
    assert set(network.state_dict()) == set(bare.state_dict())


def test_the_moving_average_that_leaves_has_followed_the_training(made: MadeRun) -> None:
    run_job(made.study, made.folder, "mod", label="mod-average")
    _, network = load_student(made.folder / "distill" / "mod-average")
    initial = new_scheme(made.study, "mod", made.study.seed).student.state_dict()
    assert all(not torch.equal(value, initial[name]) for name, value in network.state_dict().items())


def test_what_a_scheme_holds_beside_the_network_must_fit_too(made: MadeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    distill = made.study.distill.model_copy(update={"mod": Mod(stage="E4", heads=(20000, 64, 64))})
    study = made.study.model_copy(update={"distill": distill})
    alone = training_bytes(models.create("dynunet", 2, 3, size=PATCH, width=4), PATCH, distill.batch)
    monkeypatch.setattr(forecast, "memory_of", lambda device: alone + 2**20)
    prepare(study, made.folder, "supervised", 0)
    with pytest.raises(InputError, match=r"a step of 2 × 16 × 16 × 32 through `dynunet` needs at least"):
        prepare(study, made.folder, "mod", 0)


def test_a_probe_learns_an_output_layer_alone_on_what_another_student_has_learned(made: MadeRun) -> None:
    first = run_job(made.study, made.folder, "dsd", label="dsd-probed")
    distill = made.study.distill
    study = made.study.model_copy(update={"distill": distill.model_copy(update={"start": "dsd-probed"})})
    card = run_job(study, made.folder, "probe")
    again = run_job(study, made.folder, "probe", label="probe-again")
    assert card.weights_hash == again.weights_hash
    weights, before = (load_student(made.folder / "distill" / name)[1].state_dict() for name in ("probe", "dsd-probed"))
    assert {name for name in weights if not torch.equal(weights[name], before[name])} == {
        f"body.output_block.conv.conv.{name}" for name in ("weight", "bias")
    }
    assert first.parameters == card.parameters


def test_a_student_begins_with_another_s_weights_and_anew_where_these_have_changed(made: MadeRun) -> None:
    run_job(made.study, made.folder, "supervised", label="base")
    distill = made.study.distill
    study = made.study.model_copy(update={"distill": distill.model_copy(update={"start": "base"})})
    first = run_job(study, made.folder, "supervised", label="on")
    assert first.weights_hash not in {
        run_job(made.study, made.folder, "supervised").weights_hash,
        load_student(made.folder / "distill" / "base")[0].weights_hash,
    }
    card = made.folder / "distill" / "base" / "student.json"
    os.utime(card, (1, 1))
    run_job(study, made.folder, "supervised", label="on")
    assert card.stat().st_mtime == 1, "who begins with it must not make it look younger than its answers"
    shutil.rmtree(made.folder / "distill" / "base")
    with pytest.raises(InputError, match="the student `base` that this one begins with is not there"):
        run_job(study, made.folder, "supervised", label="on")
    run_job(made.study, made.folder, "supervised", seed=5, label="base")
    assert run_job(study, made.folder, "supervised", label="on").weights_hash != first.weights_hash
    wider = study.student.model_copy(update={"options": {"width": 8}})
    with pytest.raises(InputError, match="the student `base` that this one begins with is another network"):
        run_job(study.model_copy(update={"student": wider}), made.folder, "supervised", label="wider")


def test_the_student_that_others_begin_with_begins_afresh(made: MadeRun) -> None:
    distill = made.study.distill.model_copy(update={"start": "afresh"})
    study = made.study.model_copy(update={"distill": distill})
    card = run_job(study, made.folder, "supervised", label="afresh")
    assert card.weights_hash == run_job(made.study, made.folder, "supervised").weights_hash
    assert card.settings.start is None


def test_a_probe_of_nobody_is_refused(made: MadeRun) -> None:
    with pytest.raises(InputError, match="none is named; name it, such as by `--set start=mod`"):
        run_job(made.study, made.folder, "probe", label="nobody")


@pytest.mark.parametrize(
    ("encoding", "apart"),
    [
        ({"grid": "half"}, 0.5),
        ({"precision": "uint8"}, 0.02),
        ({"precision": "4bit"}, 0.3),
        ({"precision": "uint8", "grid": "half"}, 0.5),
    ],
)
def test_logits_of_patches_travel_in_fewer_bits_and_on_coarser_grids(
    encoding: dict[str, str], apart: float, made: MadeRun
) -> None:
    study = Study.model_validate(made.study.model_dump() | {"answers": {"contents": ["logits"], **encoding}})
    asks = assignment(study, "north")
    shard = make_shard(asks, made.slices, 0, np.arange(3), ["logits"])
    body = Teacher("north", asks, made.teachers["north"], "weights").answer(shard).pack()
    answers = Answers.unpack(body, shard)
    with torch.no_grad():
        whole = made.teachers["north"](torch.from_numpy(shard.images).float()).numpy()
    found = decoded(answers.arrays, asks.encoding, size=PATCH, ends=None)["logits"].astype(np.float32)
    assert found.shape == whole.shape == (3, 3, *PATCH)
    assert np.abs(found - whole).mean() < apart * whole.std()


def test_a_folder_of_other_channels_says_so(made: MadeRun, tmp_path: Path) -> None:
    task = made.study.task.model_copy(update={"channels": ["t1", "t2", "flair"]})
    words = r"no scan can be used: 2 channels in the file, and the study names 3 \(and 9 more problems\); put all"
    with pytest.raises(InputError, match=words):
        lead_slices(made.study.model_copy(update={"task": task}), tmp_path)


def test_patches_are_varied_alike_at_the_site_and_centrally(made: MadeRun) -> None:
    numbers = numbered(made.slices, np.array([1, 3]), 1)
    images, masks = pictures(made.slices, numbers, seed=made.study.seed, augment=made.study.augment)
    shard = make_shard(assignment(made.study, "north"), made.slices, 0, numbers, ["logits"])
    seen, outlines = Shard.unpack(shard.pack()).pictures()
    np.testing.assert_array_equal(seen, images)
    np.testing.assert_array_equal(outlines, masks)
    assert not np.array_equal(images, made.slices.images[np.array([1, 3])])


@pytest.mark.parametrize("scheme", ["mod", "probe"])
def test_regions_of_a_study_come_to_the_loss(scheme: str, made: MadeRun) -> None:
    content = made.study.model_dump() | {"task": made.study.task.model_dump() | {"regions": {"all": ["shell", "core"]}}}
    batch = plain(made.slices, None, np.array([0]))
    losses = []
    for study in (made.study, Study.model_validate(content)):
        one = new_scheme(study, scheme, 0)
        torch.manual_seed(0)
        one.adapt(batch)
        losses.append(float(one.loss(batch)["focal"].detach()))
    assert losses[0] != losses[1]


def test_small_networks_of_volumes_leave_as_onnx_and_one_that_cannot_says_so() -> None:
    vit = models.create("vit-autoencoder", 1, 3, size=(16, 16, 16), patch=4, hidden=48, layers=1).eval()
    graph = network_graph(vit, (1, 16, 16, 16))
    images = torch.randn(3, 1, 16, 16, 16)
    (logits,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"images": images.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(logits), vit(images), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="a network that scans its tokens one after another has no ONNX graph"):
        network_graph(models.create("segmamba", 1, 3, size=(32, 32, 32), width=8, hidden=16), (1, 32, 32, 32))


@pytest.mark.parametrize("scheme", ["skd", "cirkd"])
def test_a_scheme_for_slices_is_refused_by_name(scheme: str, made: MadeRun) -> None:
    with pytest.raises(InputError, match=f"scheme `{scheme}` is for slices, and the study has patches of volumes"):
        run_job(made.study, made.folder, scheme)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"preprocess": {"size": (32, 48), "patch": (16, 20, 32)}},
            r"is no multiple of 16.*\[16, 16, 32\] or \[16, 32, 32\] would",
        ),
        (
            {"preprocess": {"size": (32, 48)}},
            "`dynunet` reads patches of volumes; name their size by `preprocess.patch`",
        ),
        ({"student": {"model": "enet"}}, "`enet` reads slices; leave `preprocess.patch` out, or name"),
        ({"task": {"regions": {"whole": ["shell", "cor"]}}}, "no class is called `cor`, did you mean `core`"),
    ],
)
def test_a_study_that_cannot_be_is_refused_by_name(
    change: dict[str, dict[str, object]], words: str, made: MadeRun
) -> None:
    content = made.study.model_dump(mode="json")
    for table, values in change.items():
        content[table] = (content[table] if table != "preprocess" else {}) | values
        if values.get("model") == "enet":
            content[table]["options"] = {}
    with pytest.raises(ValueError, match=words):
        Study.model_validate(content)


# Contents of patches


def brute_contrast(features: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Cosines between the classes' mean features on a grid as fine as the mask, one patch, pair by pair."""
    means = [features[:, mask == label].mean(1) for label in range(classes)]
    pairs = [(a, b) for a in range(classes) for b in range(a + 1, classes)]
    return torch.stack([torch.cosine_similarity(means[a], means[b], dim=0) for a, b in pairs])


def test_what_is_told_of_a_patch_has_its_depth() -> None:
    features, masks = torch.randn(2, 5, 3, 7, 11), torch.randint(3, (2, 3, 7, 11))
    assert_close(attention_map(features), features.abs().sum(1))
    contrast, valid = region_contrast(features, masks, 3)
    assert valid.all()
    for n in range(2):
        assert_close(contrast[n], brute_contrast(features[n], masks[n], 3))
