"""Phantoms are what they say: plausible in size and signal, different between scanners, the same for the same seed."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from imaging.errors import InputError
from imaging.phantom import PROFILES, Phantom, make

MR = ["promise12", "nci-isbi", "i2cvb"]
CT = ["decathlon", "duke"]


@cache
def cohort(profile: str, count: int = 5) -> list[Phantom]:
    return [make(profile, seed=11, index=index) for index in range(count)]


def volume_ml(phantom: Phantom) -> float:
    return float(phantom.mask.array.sum() * np.prod(phantom.mask.spacing_mm) / 1000)


def mean(phantom: Phantom, part: np.ndarray) -> float:
    return float(phantom.image.array[part].mean())


@pytest.mark.parametrize("profile", PROFILES)
def test_an_organ_is_of_a_plausible_size_and_within_the_scan(profile: str) -> None:
    low, high = (20, 90) if profile in MR else (90, 460)
    for phantom in cohort(profile):
        assert low < volume_ml(phantom) < high
        assert set(np.unique(phantom.mask.array)) == {0, 1}
        assert phantom.mask.array.shape == phantom.image.array.shape
        empty = [not plane.any() for plane in phantom.mask.array]
        assert 1 <= sum(empty) < 0.65 * len(empty), "some slices lie above or below the organ, most on it"


@pytest.mark.parametrize("profile", PROFILES)
def test_patients_of_one_scanner_differ(profile: str) -> None:
    volumes = [volume_ml(phantom) for phantom in cohort(profile)]
    assert max(volumes) > 1.15 * min(volumes)
    first, second = (phantom.mask.array for phantom in cohort(profile)[:2])
    if first.shape == second.shape:
        assert 2 * (first & second).sum() / (first.sum() + second.sum()) < 0.9, "an atlas alone must not solve it"


def test_the_same_seed_gives_the_same_scan_and_another_seed_another_one() -> None:
    again = make("i2cvb", seed=11, index=1)
    known = cohort("i2cvb")[1]
    assert np.array_equal(again.image.array, known.image.array)
    assert np.array_equal(again.mask.array, known.mask.array)
    other = make("i2cvb", seed=12, index=1)
    assert not np.array_equal(other.mask.array, known.mask.array)
    assert other.image.patient != known.image.patient


def test_grids_differ_between_scanners() -> None:
    spacings = {profile: cohort(profile)[0].image.spacing_mm for profile in PROFILES}
    assert len({tuple(np.round(spacing, 3)) for spacing in spacings.values()}) == len(PROFILES)


def test_zones_of_the_prostate_invert_between_scanners() -> None:
    """The back of the gland is peripheral zone, its middle transition zone."""

    def contrast(phantom: Phantom) -> float:
        ratios = []
        for plane, mask in zip(phantom.image.array, phantom.mask.array, strict=True):
            rows, columns = np.nonzero(mask)
            if len(rows) > 1500 * 0.39 / phantom.image.spacing_mm[1] ** 2:
                top, bottom, middle = rows.min(), rows.max(), int(np.median(columns))
                half = (bottom - top) // 8
                back = plane[bottom - 2 * half : bottom - half // 2, middle - 3 * half : middle + 3 * half]
                front = plane[top + 3 * half : top + 5 * half, middle - 2 * half : middle + 2 * half]
                ratios.append(float(np.median(back) / np.median(front)))
        return float(np.median(ratios))

    bright = np.median([contrast(phantom) for phantom in cohort("promise12")])
    dark = np.median([contrast(phantom) for phantom in cohort("i2cvb")])
    assert bright > 1.3
    assert dark < 1.0


def test_an_endorectal_coil_flares_behind_the_gland_and_fades_towards_the_skin() -> None:
    def fall(phantom: Phantom) -> float:
        middle = phantom.image.array[len(phantom.image.array) // 2].astype(float)
        h, w = middle.shape
        rows = np.nonzero(phantom.mask.array.any(axis=(0, 2)))[0]
        beside = middle[rows.max() - h // 20 : rows.max() + h // 20, w // 3 : -w // 3]
        return float(np.percentile(beside, 90) / np.median(middle[h // 12 : h // 6, w // 4 : -w // 4]))

    coil = [phantom for phantom in cohort("nci-isbi") if phantom.tags["ReceiveCoilName"] == "ENDORECTAL"]
    assert len(coil) >= 2
    assert min(map(fall, coil)) > 1.5 * np.median([fall(phantom) for phantom in cohort("i2cvb")])


@pytest.mark.parametrize("profile", MR)
def test_intensity_alone_does_not_find_the_gland(profile: str) -> None:
    """The best single window of intensity around the gland's own median overlaps far less than a reader would."""
    for phantom in cohort(profile)[:2]:
        image, mask = phantom.image.array, phantom.mask.array > 0
        low, high = np.percentile(image[mask], (10, 90))
        found = (image > low) & (image < high)
        assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) < 0.35


@pytest.mark.parametrize("profile", CT)
def test_ct_is_in_hounsfield_units(profile: str) -> None:
    for phantom in cohort(profile):
        image, mask = phantom.image.array, phantom.mask.array > 0
        assert np.median(image[:, :5, :5]) == pytest.approx(-1000, abs=25), "air around the patient"
        inside = image[image > -150]
        assert np.median(inside[inside < -60]) == pytest.approx(-100, abs=15), "fat"
        assert 300 < np.percentile(image, 99.9) < 1200, "cortical bone"
        assert 35 < np.median(image[mask]) < 140, "spleen, native to portal venous"
        assert (image < -750).mean() > 0.02, "lung bases and air"


def test_contrast_phases_differ_in_the_spleen() -> None:
    spleens = {p.tags.get("ContrastBolusAgent", "native"): mean(p, p.mask.array > 0) for p in cohort("duke", 9)}
    assert len(spleens) >= 3
    portal = [mean(p, p.mask.array > 0) for p in cohort("decathlon")]
    assert np.ptp(portal) < 15 < np.ptp(list(spleens.values()))


def test_an_unknown_profile_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"profile 'promise' is unknown; choose one of promise12, nci-isbi"):
        make("promise", seed=0, index=0)
