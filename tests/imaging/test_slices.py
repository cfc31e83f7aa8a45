from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from imaging.cohort import COPY, Case, inspect
from imaging.errors import InputError
from imaging.grid import to_native
from imaging.lock import Lock
from imaging.metrics import mean_dice
from imaging.preprocess import Preprocess, prepare
from imaging.slice_parts import Part, Recipe
from imaging.slices import CachedCase, SliceCache

PLAN = Preprocess(size=(19, 23), spacing_mm=(1.0, 1.0))
DEPTHS = (5, 3, 7)


def write(folder: Path, name: str, depth: int, seed: int, *, masked: bool = True) -> None:
    """A scan (and its mask) of 31 × 29 voxels a slice at 0.9 × 0.8 × 3 mm, as NIfTI, whose axes are x, y, z."""
    random = np.random.default_rng(seed)
    image = random.gamma(2, 100, (29, 31, depth)).astype(np.float32)
    mask = np.zeros((29, 31, depth), np.uint8)
    mask[9:21, 8:20, : depth - 1] = 1
    mask[13:17, 12:16, : depth - 1] = 2
    affine = np.diag([-0.8, -0.9, 3.0, 1])
    affine[:3, 3] = (seed, 2 * seed, 3 * seed)
    nib.save(nib.Nifti1Image(image, affine), folder / f"{name}.nii.gz")
    if masked:
        path = folder / f"{name}_seg.nii.gz"
        nib.save(nib.Nifti1Image(mask, affine), path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three patients; the second has no mask."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, depth in enumerate(DEPTHS):
        write(folder, f"patient{number}", depth, number + 1, masked=number != 1)
    return folder


def cases_of(folder: Path) -> tuple[Case, ...]:
    inspection = inspect(folder, classes=3)
    assert not inspection.problems
    return inspection.cases


def build(folder: Path, cases: Any, **options: Any) -> SliceCache:
    return SliceCache.build(cases, options.pop("plan", PLAN), folder / "cache", classes=3, **options)


def read_by(cases: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the cases whose images are read from now on."""
    read: list[str] = []
    original = Case.read_image

    def read_image(case: Case) -> Any:
        read.append(case.id)
        return original(case)

    monkeypatch.setattr(Case, "read_image", read_image)
    return read


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_slices_are_those_that_preparing_gives(scans: Path, tmp_path: Path) -> None:
    cases = cases_of(scans)
    cache = build(tmp_path, cases)
    assert cache.images.shape == (15, 1, 19, 23)
    assert cache.masks.shape == (15, 19, 23)
    assert isinstance(cache.stack, np.memmap)
    assert isinstance(cache.outlines, np.memmap)
    assert (cache.plan, cache.classes) == (PLAN, 3)
    for case, cached in zip(cases, cache.cases, strict=True):
        prepared = prepare(case.read_image(), case.read_mask(), PLAN, classes=3)
        assert_array_equal(cache.images[cached.start : cached.stop], prepared.images)
        assert_array_equal(cache.masks[cached.start : cached.stop], prepared.masks)
        assert (cached.id, cached.patient, cached.grid) == (case.id, case.patient, prepared.grid)
        assert cached.spacing_mm == pytest.approx((3.0, 0.9, 0.8))


def test_every_slice_knows_its_case_and_whether_it_has_a_mask(scans: Path, tmp_path: Path) -> None:
    cache = build(tmp_path, cases_of(scans))
    assert_array_equal(cache.case_index, np.repeat([0, 1, 2], DEPTHS))
    assert_array_equal(cache.labelled, np.repeat([True, False, True], DEPTHS))
    assert_array_equal((cache.outlines == 255).all((1, 2)), ~cache.labelled)
    assert [case.labelled for case in cache.cases] == [True, False, True]


def test_metrics_have_the_mask_as_it_was_drawn(scans: Path, tmp_path: Path) -> None:
    cases = cases_of(scans)
    cache = build(tmp_path, cases)
    drawn = cases[2].read_mask()
    assert drawn is not None
    native = cache.native_mask(cache.cases[2])
    assert_array_equal(native, drawn.array)
    labels = np.stack([cache.part(cache.cases[2]).masks == label for label in range(3)], 1).astype(np.float32)
    back = to_native(labels, cache.cases[2].grid)
    assert (back == native).mean() > 0.97
    with pytest.raises(ValueError, match="has no mask"):
        cache.native_mask(cache.cases[1])


def test_a_case_that_a_failing_disk_took_away_is_tried_again(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = cases_of(scans)

    def fail(recipe: Recipe, case: Case, key: str) -> Part:
        if case.id == cases[1].id:
            raise InputError("cannot be read") from OSError(errno.EIO, "Input/output error")
        return prepared(recipe, case, key)

    prepared = Recipe.prepare
    with monkeypatch.context() as broken:
        broken.setattr(Recipe, "prepare", fail)
        first = build(tmp_path, cases)
    assert [len(first.cases), len(first.problems)] == [2, 1]
    again = build(tmp_path, cases)
    assert [len(again.cases), len(again.problems)] == [3, 0]


def test_progress_is_told_case_by_case(scans: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    build(tmp_path, cases_of(scans), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_opening_gives_what_was_built(scans: Path, tmp_path: Path) -> None:
    built = build(tmp_path, cases_of(scans))
    opened = SliceCache.open(tmp_path / "cache")
    assert opened.cases == built.cases
    assert all(isinstance(case, CachedCase) for case in opened.cases)
    assert_array_equal(opened.images, built.images)
    assert opened.problems == ()


def test_nothing_but_the_cache_is_left_behind(scans: Path, tmp_path: Path) -> None:
    build(tmp_path, cases_of(scans))
    assert names(tmp_path) == [".cache.lock", "cache", "scans"]
    assert names(tmp_path / "cache") == ["images.npy", "index.json", "masks.npy", "native"]


# Used again


def test_scans_are_read_once(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = cases_of(scans)
    first = build(tmp_path, cases)
    read = read_by(cases, monkeypatch)
    monkeypatch.setattr(Case, "checksum", lambda case: pytest.fail("no content is read"))
    assert_array_equal(build(tmp_path, cases).images, first.images)
    assert read == []


def test_a_file_with_a_new_time_and_the_same_content_is_not_prepared_again(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = cases_of(scans)
    first = build(tmp_path, cases)
    for path in scans.iterdir():
        os.utime(path, (1, 1))
    read = read_by(cases, monkeypatch)
    again = build(tmp_path, cases)
    assert read == []
    assert_array_equal(again.images, first.images)
    assert_array_equal(again.native_mask(again.cases[0]), first.native_mask(first.cases[0]))
    assert again.stamp != first.stamp


def test_only_what_changed_is_prepared_again(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(tmp_path, cases_of(scans))
    before = np.array(first.images)
    write(scans, "patient0", 5, 11)
    write(scans, "patient3", 2, 4)
    cases = cases_of(scans)
    read = read_by(cases, monkeypatch)
    again = build(tmp_path, cases)
    assert read == [cases[0].id, cases[3].id]
    assert len(again.images) == 17
    assert_array_equal(again.images[5:15], before[5:15])
    assert (again.images[:5] != before[:5]).any()


@pytest.mark.parametrize("change", ["plan", "classes", "order", "mask"])
def test_another_plan_or_choice_of_cases_makes_another_cache(scans: Path, tmp_path: Path, change: str) -> None:
    cases: Any = cases_of(scans)
    first = build(tmp_path, cases)
    plan, classes = PLAN, 3
    if change == "plan":
        plan = Preprocess(size=(19, 23), spacing_mm=(1.0, 1.1))
    elif change == "classes":
        classes = 4
    elif change == "order":
        cases = cases[::-1]
    else:
        cases = [cases[0].without_mask(), *cases[1:]]
    again = SliceCache.build(cases, plan, tmp_path / "cache", classes=classes)
    assert again.stamp != first.stamp
    assert again.plan == plan
    assert [case.id for case in again.cases] == [case.id for case in cases]
    assert [case.labelled for case in again.cases] == [case.labelled for case in cases]


@pytest.mark.parametrize("damage", ["images.npy", "masks.npy", "index.json"])
def test_a_damaged_cache_is_refused_and_built_anew(scans: Path, tmp_path: Path, damage: str) -> None:
    cases = cases_of(scans)
    whole = np.array(build(tmp_path, cases).images)
    content = (tmp_path / "cache" / damage).read_bytes()
    (tmp_path / "cache" / damage).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"is no whole cache of slices .*; delete the folder"):
        SliceCache.open(tmp_path / "cache")
    assert_array_equal(build(tmp_path, cases).images, whole)


def test_where_there_is_no_cache_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no whole cache") as raised:
        SliceCache.open(tmp_path / "nothing")
    assert raised.value.where == tmp_path / "nothing"


# Interrupted

KILLED = """
import os, sys
from pathlib import Path
from imaging.cohort import inspect
from imaging.preprocess import Preprocess
from imaging.slices import SliceCache
import imaging.slices
folder, at = Path(sys.argv[1]), sys.argv[2]
def die(*_):
    os.kill(os.getpid(), 9)
if at == "assembly":
    imaging.slices._concatenate = die
progress = (lambda done, total: done == 2 and die()) if at == "case" else None
plan = Preprocess(size=(19, 23), spacing_mm=(1.0, 1.0))
SliceCache.build(inspect(folder / "scans", classes=3).cases, plan, folder / "cache", classes=3, progress=progress)
"""


@pytest.mark.parametrize(("at", "left"), [("case", [2]), ("assembly", [])])
def test_a_killed_build_goes_on_where_it_was(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, left: list[int]
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), at], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "cache").exists()
    cases = cases_of(scans)
    read = read_by(cases, monkeypatch)
    cache = build(tmp_path, cases)
    assert read == [cases[index].id for index in left]
    assert names(tmp_path) == [".cache.lock", "cache", "scans"]
    assert_array_equal(cache.images, SliceCache.build(cases, PLAN, tmp_path / "fresh", classes=3).images)


WAITING = """
import sys
from pathlib import Path
from imaging.cohort import inspect
from imaging.preprocess import Preprocess
from imaging.slices import SliceCache
folder, told = Path(sys.argv[1]), []
cases = inspect(folder / "scans", classes=3).cases
print("ready", flush=True)
sys.stdin.readline()
plan = Preprocess(size=(19, 23), spacing_mm=(1.0, 1.0))
SliceCache.build(cases, plan, folder / "cache", classes=3, progress=lambda *done: told.append(done))
print(len(told))
"""


def test_two_processes_that_want_a_cache_build_it_once(scans: Path, tmp_path: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)], **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    with Lock(tmp_path / ".cache.lock"):  # both see that there is none, and wait
        for process in both:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(0.5)
    told = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(told) == ["0\n", "3\n"], "one builds, the other opens what is there"


def test_one_case_is_in_memory_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(7):
        write(folder, f"patient{number}", 61, number + 1)
    cases = cases_of(folder)
    peaks = []
    for count in (1, 7):
        tracemalloc.start()
        SliceCache.build(cases[:count], PLAN, tmp_path / f"cache{count}", classes=3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


# Bad cases


def test_a_bad_case_is_put_aside_and_stops_nobody(scans: Path, tmp_path: Path) -> None:
    cases = cases_of(scans)
    path = cases[0].image.files[0]
    image: Any = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[2, 3, 1] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), path)
    cases[1].image.files[0].unlink()
    cache = build(tmp_path, cases)
    assert [case.id for case in cache.cases] == [cases[2].id]
    assert cache.images.shape[0] == DEPTHS[2]
    assert [problem.where for problem in cache.problems] == [cases[0].image.files[0], cases[1].image.files[0]]
    assert "NaN" in cache.problems[0].what
    assert all("patient" not in problem.what + problem.fix for problem in cache.problems)
    assert SliceCache.open(tmp_path / "cache").problems == cache.problems


def test_a_mask_outside_the_studys_classes_puts_its_case_aside(scans: Path, tmp_path: Path) -> None:
    cases = cases_of(scans)
    with pytest.raises(
        InputError, match="none of 1 cases can be used; the first: the mask holds 2, classes are 0 to 1"
    ):
        SliceCache.build(cases[:1], PLAN, tmp_path / "cache", classes=2)
    cache = SliceCache.build(cases, PLAN, tmp_path / "cache", classes=2)
    assert [case.id for case in cache.cases] == [cases[1].id]
    assert len(cache.problems) == 2


def test_a_copy_of_a_scan_is_put_aside_whatever_its_name(scans: Path, tmp_path: Path) -> None:
    for end in ("", "_seg"):
        copied = nib.load(scans / f"patient0{end}.nii.gz")
        nib.save(copied, scans / f"patient7{end}.nii.gz")  # gzip stamps the time: other bytes, the same scan
    cache = build(tmp_path, cases_of(scans))
    assert [case.patient for case in cache.cases] == ["patient0", "patient1", "patient2"]
    assert [(problem.what, problem.where.name) for problem in cache.problems] == [(COPY, "patient7.nii.gz")]


def test_a_bad_case_that_was_mended_is_taken(scans: Path, tmp_path: Path) -> None:
    cases = cases_of(scans)
    content = cases[0].image.files[0].read_bytes()
    cases[0].image.files[0].write_bytes(content[:1000])
    assert len(build(tmp_path, cases).cases) == 2
    cases[0].image.files[0].write_bytes(content)
    cache = build(tmp_path, cases)
    assert len(cache.cases) == 3
    assert cache.problems == ()


def test_no_case_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no cases"):
        build(tmp_path, [])
    assert names(tmp_path) == [".cache.lock"]


def test_a_full_disk_is_no_fault_of_the_case(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, writes = np.save, iter(range(99))

    def full(path: Path, array: NDArray[Any]) -> None:
        if next(writes) == 4:  # of the second case; afterwards somebody makes room
            raise OSError(28, "No space left on device")
        save(path, array)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"No space left on device\); free some space"):
        build(tmp_path, cases_of(scans))
    assert not (tmp_path / "cache").exists()


def test_caching_needs_no_torch() -> None:
    program = "import sys, imaging.slices; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_index_is_readable_without_our_code(scans: Path, tmp_path: Path) -> None:
    build(tmp_path, cases_of(scans))
    index = json.loads((tmp_path / "cache" / "index.json").read_text())
    images: NDArray[np.float16] = np.load(tmp_path / "cache" / "images.npy")
    assert [case["stop"] - case["start"] for case in index["cases"]] == list(DEPTHS)
    assert images.shape == (15, 1, 19, 23)
    assert replace(CachedCase.from_json(index["cases"][0]), start=0) == CachedCase.from_json(index["cases"][0])


# Real scans

REAL = Path(os.environ.get("PRECEPTOR_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data and no PRECEPTOR_REAL_DATA")
@pytest.mark.parametrize(
    ("folder", "plan"),
    [
        ("acdc/DCM", Preprocess(size=(256, 256), spacing_mm=(1.4, 1.4))),
        ("msd_spleen_crop", Preprocess(size=(192, 192), normalise="window", spacing_mm=(0.9, 0.9))),
        ("hippocampus", Preprocess(size=(64, 64))),
    ],
)
def test_real_masks_come_back_nearly_whole(folder: str, plan: Preprocess, tmp_path: Path) -> None:
    if not (REAL / folder).is_dir():
        pytest.skip(f"no {folder} among the real scans")
    cases = [case for case in inspect(REAL / folder).cases if case.labelled][:5]
    cache = SliceCache.build(cases, plan, tmp_path / "cache", classes=4)
    assert len(cache.cases) == len(cases) > 0
    for case in cache.cases:
        part = cache.part(case)
        labels = np.stack([part.masks == label for label in range(4)], 1).astype(np.float32)
        native = cache.native_mask(case)
        assert mean_dice(to_native(labels, case.grid), native, classes=4) > 0.97
        assert np.isfinite(part.images).all()
