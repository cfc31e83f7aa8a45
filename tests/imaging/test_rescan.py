"""Another scanner on real scans: what it does to them, and that masks, order and places stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.cohort import inspect
from imaging.commands import rescan_command
from imaging.errors import InputError
from imaging.phantom import make, write_cohort
from imaging.phantom_files import write_nifti
from imaging.rescan import rescan, write_rescanned
from imaging.scanner import Scanner
from imaging.volume import Volume

AFFINE = np.array([[0.0, 0, -1.5, 9], [0, -1.5, 0, 8], [3, 0, 0, -7], [0, 0, 0, 1]])
OTHER = Scanner(gamma=1.5, shading=0.3, blur_mm=3.0, noise=0.05)


def scan(seed: int = 0, shape: tuple[int, int, int] = (6, 40, 44)) -> Volume:
    """A bright block in a dim ground with air on one side, of intensities as no magnet stores them."""
    image = np.random.default_rng(seed).normal(-3.0, 0.02, shape).astype(np.float32)
    image[2:5, 10:30, 12:32] += 4.0
    image[:, :, :6] -= 1.0
    return Volume(image, AFFINE, "MR")


def ratio(image: NDArray[np.int16]) -> float:
    """Signal of the ground over the block's."""
    return float(image[:, :5, 8:].mean() / image[2:5, 15:25, 17:27].mean())


def of(**values: float) -> Volume:
    return rescan(scan(), Scanner(**values), np.random.default_rng(1))


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """Four patients; the second has two scans, and the last no mask."""
    for number, scans in enumerate((1, 2, 1, 1)):
        for index in range(scans):
            image = scan(10 * number + index)
            mask = Volume((image.array > 0).astype(np.uint8), AFFINE, "SEG") if number < 3 else None
            folder = tmp_path / "ward" / f"sub-{number + 5}" / f"visit{index}"
            write_nifti(folder, image, mask, note="a test")
    return tmp_path / "ward"


def test_without_effects_a_scan_is_stored_anew_and_nothing_more() -> None:
    stored, given = of().array.astype(float), scan().array
    assert of().array.dtype == np.int16
    assert np.corrcoef(stored.ravel(), given.ravel())[0, 1] > 0.9999
    assert stored.min() == 0


def test_contrast_falls_by_the_power() -> None:
    squared = of(gamma=2.0).array
    assert ratio(squared) == pytest.approx(ratio(of().array) ** 2, rel=0.1)


def test_noise_is_of_the_brightest_signal() -> None:
    plain, noisy = of().array.astype(float), of(noise=0.1).array.astype(float)
    block = (slice(2, 5), slice(15, 25), slice(17, 27))
    assert noisy[block].std() / plain[block].mean() == pytest.approx(0.1, rel=0.2)


def test_shading_is_slow_and_blur_stays_in_its_slice() -> None:
    shaded, plain = of(shading=1.5).array[3, 15:25, 13:31], of().array[3, 15:25, 13:31]
    gain = shaded.mean(0) / plain.mean(0)
    assert abs(np.log(gain[-1] / gain[0])) > 0.02
    assert np.abs(np.diff(gain)).max() < 0.05 * gain.mean()
    blurred = of(blur_mm=6.0).array
    assert blurred[3, 9, 20] > 2 * of().array[3, 9, 20], "the edge is wider"
    assert blurred[1, :, 8:].mean() == pytest.approx(of().array[1, :, 8:].mean(), rel=0.1), "the slice beneath stays"


def test_patients_keep_their_order_masks_and_places(ward: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = write_rescanned(ward, tmp_path / "out", OTHER, seed=3, progress=lambda *at: told.append(at))
    former, cases = inspect(ward).cases, inspect(tmp_path / "out").cases
    assert (done.patients, told[-1]) == (4, (4, 4))
    assert len(cases) == len(former) == 5
    assert len({case.patient for case in cases}) == 4
    assert [case.labelled for case in cases] == [case.labelled for case in former] == [True] * 4 + [False]
    for mine, theirs in zip(cases, former, strict=True):
        assert mine.read_image().affine == pytest.approx(theirs.read_image().affine)
        mask, given = mine.read_mask(), theirs.read_mask()
        assert (mask is None) == (given is None)
        assert mask is None or given is None or np.array_equal(mask.array, given.array)
    words = " ".join(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert "sub-" not in words, "ids stay where they were"


def test_a_range_of_patients_and_a_seed(ward: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        write_rescanned(ward, tmp_path / name, OTHER, seed=seed, patients=(1, 3))
    one, again, other = (inspect(tmp_path / name).cases for name in ("one", "again", "other"))
    assert len(one) == 3
    pictures = [[case.read_image().array for case in cases] for cases in (one, again, other)]
    assert all(np.array_equal(a, b) for a, b in zip(pictures[0], pictures[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(pictures[0], pictures[2], strict=True))


def test_an_interrupted_cohort_goes_on(ward: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_rescanned(ward, out, OTHER, seed=3)
    first = (out / "patient-0000/scan-0/image.nii.gz").stat().st_mtime_ns
    kept = (out / "patient-0002/scan-0/image.nii.gz").read_bytes()
    (out / "patient-0002").rename(out / ".patient-0002.12345678.tmp")
    write_rescanned(ward, out, OTHER, seed=3)
    assert (out / "patient-0002/scan-0/image.nii.gz").read_bytes() == kept
    assert (out / "patient-0000/scan-0/image.nii.gz").stat().st_mtime_ns == first
    assert not list(out.glob(".*"))


def test_a_folder_of_other_scans_is_left_alone(ward: Path, tmp_path: Path) -> None:
    write_rescanned(ward, tmp_path / "out", OTHER, seed=3)
    with pytest.raises(InputError, match="made otherwise"):
        write_rescanned(ward, tmp_path / "out", OTHER, seed=4)
    with pytest.raises(InputError, match="patients 7 to 9 are asked for, and there are 4"):
        write_rescanned(ward, tmp_path / "none", OTHER, seed=4, patients=(7, 9))


def test_scans_of_another_kind_are_no_patients_here(tmp_path: Path) -> None:
    for profile, folder in (("decathlon", "a"), ("promise12", "b")):
        write_cohort(profile, tmp_path / "mixed" / folder, cases=1, seed=0, format="dicom")
    done = write_rescanned(tmp_path / "mixed", tmp_path / "out", OTHER, seed=0, patients=(0, 1))
    (case,) = inspect(tmp_path / "out").cases
    assert case.read_image().array.shape == make("promise12", seed=0, index=0).image.array.shape
    assert [problem.what for problem in done.problems] == ["the scan is CT, and MR alone can be scanned again"]


def test_a_scan_that_cannot_be_read_costs_the_others_nothing(ward: Path, tmp_path: Path) -> None:
    bad = scan()
    bad.array[0, 0, 0] = np.nan
    shutil.rmtree(ward / "sub-5")
    write_nifti(ward / "sub-5" / "visit0", bad, None, note="a test")
    done = write_rescanned(ward, tmp_path / "out", OTHER, seed=0)
    assert ["NaN" in problem.what for problem in done.problems] == [True]
    assert len(inspect(tmp_path / "out").cases) == 4
    assert not list((tmp_path / "out" / "patient-0000").iterdir()), "its number stays its own"


def test_the_command_tells_what_it_wrote_and_put_aside(
    ward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ward / "broken.nii.gz").write_bytes(b"no scan")
    rescan_command(ward, tmp_path / "out", noise=0.05, patients=(0, 2))
    said = capsys.readouterr().out
    assert "put aside" in said
    assert "broken.nii.gz" in said
    assert f"2 patients in {tmp_path / 'out'}" in said
