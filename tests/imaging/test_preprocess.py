from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from pydantic import ValidationError

from imaging.errors import InputError
from imaging.grid import Axis, Grid, grid_of, to_native
from imaging.preprocess import NO_MASK, Preprocess, prepare
from imaging.volume import Volume, reorient

D, H, W = 5, 29, 23
ALL_AXES = ["".join(letters) for order in permutations(("RL", "AP", "SI")) for letters in product(*order)]
KEEP = Preprocess(size=(H, W))


def volume(array: NDArray[Any], *, spacing_mm: tuple[float, float, float] = (3.0, 0.6, 0.8)) -> Volume:
    """An axial scan of that array, feet first."""
    affine = np.array([[0, 0, -1, 60], [0, -1, 0, 40], [1, 0, 0, -70], [0, 0, 0, 1]], float)
    affine[:3, :3] *= spacing_mm
    return Volume(array, affine, "MR", "case-7", "patient-3")


def scan(shape: tuple[int, int, int] = (D, H, W), **options: tuple[float, float, float]) -> Volume:
    return volume(np.random.default_rng(5).gamma(2.0, 100.0, shape).astype(np.float32), **options)


def discs(shape: tuple[int, int, int] = (D, H, W), classes: int = 3) -> NDArray[Any]:
    """Nested discs, class 1 around class 2, shifted from slice to slice."""
    d, h, w = np.indices(shape)
    radius = np.hypot(h - shape[1] / 2 - d, w - shape[2] / 2 + d / 2)
    labels = np.zeros(shape, np.uint8)
    for label in range(1, classes):
        labels[radius < min(shape[1:]) / 3 / label] = label
    return labels


def one_hot(masks: NDArray[Any], classes: int = 3) -> NDArray[Any]:
    return np.stack([masks == label for label in range(classes)], 1).astype(np.float16)


# The plan


def test_the_fingerprint_changes_with_every_setting_and_with_nothing_else() -> None:
    plans = [
        Preprocess(),
        Preprocess(size=(64, 48)),
        Preprocess(size=(48, 64)),
        Preprocess(spacing_mm=(1.0, 1.0)),
        Preprocess(normalise="window"),
        Preprocess(percentiles=(1, 99)),
        Preprocess(window_hu=(-100, 240)),
    ]
    assert len({plan.fingerprint() for plan in plans}) == len(plans)
    assert all(len(plan.fingerprint()) == 12 for plan in plans)
    assert Preprocess.model_validate(plans[3].model_dump(mode="json")).fingerprint() == plans[3].fingerprint()
    assert Preprocess.model_validate({"size": [384, 384]}).fingerprint() == Preprocess().fingerprint()


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": [384, 0]},
        {"spacing_mm": [1.0, -1.0]},
        {"normalise": "none"},
        {"percentiles": [99.5, 0.5]},
        {"window_hu": [240, 240]},
        {"sise": [384, 384]},
    ],
)
def test_a_wrong_setting_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Preprocess.model_validate(wrong)


def test_preparing_needs_no_torch() -> None:
    program = "import sys, imaging.preprocess; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Geometry


@pytest.mark.parametrize("axes", ALL_AXES)
def test_a_mask_comes_back_exactly_whatever_the_scans_axes(axes: str) -> None:
    labels = discs()
    image, mask = reorient(scan(), axes), reorient(volume(labels), axes)
    prepared = prepare(image, mask, KEEP, classes=3)
    assert_array_equal(prepared.masks, labels)
    assert_array_equal(to_native(one_hot(prepared.masks), prepared.grid), mask.array)


@pytest.mark.parametrize("size", [(8, 41), (41, 8), (28, 24), (31, 23)])
def test_cropping_and_padding_move_whole_pixels_about_the_centre(size: tuple[int, int]) -> None:
    labels = discs()
    prepared = prepare(scan(), volume(labels), Preprocess(size=size), classes=3)
    back = to_native(one_hot(prepared.masks), prepared.grid)
    top, left = ((n - kept) // 2 for n, kept in zip((H, W), size, strict=True))
    inside = np.zeros((H, W), bool)
    inside[max(top, 0) : top + size[0], max(left, 0) : left + size[1]] = True
    assert_array_equal(back, np.where(inside, labels, 0))
    assert abs((H - size[0]) / 2 - top) <= 0.5
    assert abs((W - size[1]) / 2 - left) <= 0.5


def test_a_mask_on_the_same_voxels_in_another_order_of_axes_is_turned() -> None:
    labels = discs()
    prepared = prepare(reorient(scan(), "RAI"), reorient(volume(labels), "ASL"), KEEP)
    assert_array_equal(prepared.masks, labels)


@given(
    native=st.integers(1, 67),
    size=st.integers(1, 67),
    step=st.floats(0.2, 5),
)
def test_an_axis_samples_a_straight_line_where_it_is_and_is_centred(native: int, size: int, step: float) -> None:
    axis = Axis.centred(native, size, step)
    weights = axis.to_slice()
    positions = axis.origin + axis.step * np.arange(size)
    on_scan = (positions > -0.5) & (positions < native - 0.5)
    assert_allclose(weights.sum(1)[on_scan], 1, atol=1e-5)
    beyond = (positions < -0.5) | (positions > native - 0.5)
    assert not weights[beyond].any()
    reach = max(axis.step, 1.0)
    safe = (positions >= reach) & (positions <= native - 1 - reach)
    slack = 0.35 * axis.step if axis.step > 1 else 1e-4  # a wide triangle on few pixels is not quite symmetric
    assert_allclose((weights @ np.arange(native))[safe], positions[safe], atol=slack)
    centre = positions.mean() - (native - 1) / 2
    assert abs(centre) <= (0.5 if axis.step == 1 else 1e-9)


def test_a_step_of_one_but_for_the_headers_rounding_resamples_nothing() -> None:
    axis = Axis.centred(384, 320, 0.625 / 0.62499)
    assert set(np.unique(axis.to_slice())) == {0.0, 1.0}


@pytest.mark.parametrize("spacing_mm", [(0.4, 0.5), (1.1, 1.3), (0.6, 0.8)])
def test_resampling_keeps_every_place_in_millimetres(spacing_mm: tuple[float, float]) -> None:
    shape, size = (3, 67, 59), (19, 13)
    millimetres = np.indices(shape) * np.reshape((3.0, 0.6, 0.8), (3, 1, 1, 1))
    for axis in (0, 1):
        ramp = volume(millimetres[axis + 1])
        sampled = grid_of(ramp, size, spacing_mm).to_slices(ramp.array)[1]
        steps = np.indices(size)[axis] - (size[axis] - 1) / 2
        expected = (shape[axis + 1] - 1) / 2 * (0.6, 0.8)[axis] + steps * spacing_mm[axis]
        assert_allclose(sampled, expected, atol=0.08)  # a wide triangle on few pixels is not quite symmetric
        assert_allclose(sampled.mean(), expected.mean(), atol=1e-4)


def test_resampled_masks_keep_their_areas_and_come_back_nearly_whole() -> None:
    labels = discs((3, 97, 89))
    plan = Preprocess(size=(64, 72), spacing_mm=(1.0, 1.0))
    prepared = prepare(scan((3, 97, 89)), volume(labels), plan, classes=3)
    back = to_native(one_hot(prepared.masks), prepared.grid)
    for label in (1, 2):
        area = (prepared.masks == label).sum() / (0.6 * 0.8)
        assert area == pytest.approx((labels == label).sum(), rel=0.05)
        both = ((back == label) & (labels == label)).sum()
        assert 2 * both / ((back == label).sum() + (labels == label).sum()) > 0.95


def test_fine_detail_is_averaged_and_does_not_alias() -> None:
    stripes = np.indices((1, 64, 64)).sum(0) % 2 * 100.0  # a chequerboard: its mean is 50 everywhere
    sampled = grid_of(volume(stripes, spacing_mm=(1, 1, 1)), (15, 15), (4.0, 4.0)).to_slices(stripes)
    assert_allclose(sampled, 50, atol=1)


def test_logits_are_interpolated_not_classes() -> None:
    grid = grid_of(volume(np.zeros((1, 16, 16)), spacing_mm=(1, 1, 1)), (8, 8), (2.0, 2.0))
    logits = np.zeros((1, 2, 8, 8), np.float32)
    logits[0, 1] = np.linspace(-3, 1, 8)  # crosses 0 at column 5.25 of the slice, 11 of the scan
    assert_array_equal(to_native(logits, grid)[0, 5], np.arange(16) > 11)


@settings(max_examples=30)
@given(
    axes=st.sampled_from(ALL_AXES),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    spacing_mm=st.none() | st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
)
def test_the_grid_survives_json(axes: str, size: tuple[int, int], spacing_mm: tuple[float, float] | None) -> None:
    image = reorient(scan(), axes)
    grid = grid_of(image, size, spacing_mm)
    assert Grid.from_json(json.loads(json.dumps(grid.to_json()))) == grid
    native = to_native(np.zeros((D, 2, *size)), grid)
    assert native.shape == image.array.shape
    assert native.dtype == np.uint8
    assert native.flags.c_contiguous


def test_a_scan_of_one_slice_works() -> None:
    labels = discs((1, H, W))
    prepared = prepare(scan((1, H, W)), volume(labels), KEEP, classes=3)
    assert prepared.images.shape == (1, 1, H, W)
    assert_array_equal(to_native(one_hot(prepared.masks), prepared.grid), labels)


def test_without_a_mask_every_pixel_says_so() -> None:
    prepared = prepare(scan(), None, KEEP)
    assert prepared.masks.dtype == np.uint8
    assert (prepared.masks == NO_MASK).all()


# Intensities


def test_mr_slices_have_mean_0_and_deviation_1_whatever_the_scanners_gain() -> None:
    image = scan()
    prepared = prepare(image, None, KEEP)
    assert prepared.images.dtype == np.float16
    values = prepared.images.astype(np.float64)
    assert values.mean() == pytest.approx(0, abs=2e-3)
    assert values.std() == pytest.approx(1, abs=2e-3)
    louder = replace(image, array=37 * image.array + 11)
    assert_allclose(prepare(louder, None, KEEP).images, prepared.images, atol=2e-3)


def test_mr_intensities_are_clipped_at_their_percentiles() -> None:
    array = np.arange(D * H * W, dtype=np.float32).reshape(D, H, W)
    array[0, 0, 0] = -1e6
    array[-1, -1, -1] = 1e6
    values = np.sort(prepare(volume(array), None, Preprocess(size=(H, W), percentiles=(10, 90))).images.ravel())
    n = values.size
    assert values[0] == values[n // 10 - 5] < values[n // 10 + 9]
    assert values[-1] == values[n - n // 10 + 5] > values[n - n // 10 - 9]


def test_padding_and_what_lies_outside_the_view_change_no_intensity() -> None:
    image = scan()
    surrounded = volume(np.pad(image.array, ((0, 0), (9, 9), (4, 4))))
    small = Preprocess(size=(19, 13))
    assert_array_equal(prepare(surrounded, None, Preprocess(size=(H, W))).images, prepare(image, None, KEEP).images)
    cropped = volume(image.array[:, 5:24, 5:18])
    assert_array_equal(prepare(image, None, small).images, prepare(cropped, None, small).images)


def test_padding_is_as_dark_as_the_darkest_and_has_no_class() -> None:
    prepared = prepare(scan(), volume(discs()), Preprocess(size=(H + 8, W + 6)), classes=3)
    border = np.ones((H + 8, W + 6), bool)
    border[4:-4, 3:-3] = False
    assert (prepared.images[:, 0, border] == prepared.images.min()).all()
    assert (prepared.masks[:, border] == 0).all()
    inner = prepare(scan(), None, KEEP).images
    assert_array_equal(prepared.images[:, :, 4:-4, 3:-3], inner)


def test_the_ct_window_becomes_minus_1_to_1() -> None:
    array = np.full((D, H, W), 40, np.int16)
    array[0, 0, :5] = (-1024, -160, 140, 240, 3071)
    plan = Preprocess(size=(H + 2, W + 2), normalise="window")
    images = prepare(volume(array), None, plan).images
    assert_array_equal(images[0, 0, 1, 1:6], np.array([-1, -1, 0.5, 1, 1], np.float16))
    assert images[0, 0, 0, 0] == -1


# Bad input


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    image = scan()
    image.array[2, 3, 4] = value
    with pytest.raises(InputError, match="holds NaN or infinity; export the scan again"):
        prepare(image, None, KEEP)


def test_a_constant_image_is_refused() -> None:
    with pytest.raises(InputError, match="holds one value only"):
        prepare(volume(np.full((D, H, W), 7)), None, KEEP)


def test_an_image_that_is_flat_where_the_network_looks_is_refused() -> None:
    array = np.zeros((D, H, W))
    array[:, 0, 0] = np.arange(D)
    with pytest.raises(InputError, match="flat where the network looks"):
        prepare(volume(array), None, Preprocess(size=(9, 9)))


def test_a_series_of_volumes_is_refused() -> None:
    with pytest.raises(InputError, match="the scan has 2 channels, the study names 1; export the sequences"):
        prepare(replace(scan(), array=np.zeros((D, H, W, 2))), None, KEEP)
    with pytest.raises(InputError, match="1 × 2 × 5 × 29 × 23, not slices × rows × columns"):
        prepare(replace(scan(), array=np.zeros((1, 2, D, H, W))), None, KEEP)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"the mask has \(5, 29, 22\) voxels, its image \(5, 29, 23\)"):
        prepare(scan(), volume(discs()[:, :, :-1]), KEEP)


@pytest.mark.parametrize(("value", "classes"), [(3, 3), (255, None), (-1, 3), (0.5, 3)])
def test_a_mask_value_that_is_no_class_is_refused(value: float, classes: int | None) -> None:
    labels = discs().astype(np.float32)
    labels[1, 2, 3] = value
    with pytest.raises(InputError, match=f"the mask holds {value:g}, classes are 0 to {2 if classes else 254}"):
        prepare(scan(), volume(labels), KEEP, classes=classes)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InputError, match="nothing is outlined where the network looks"):
        prepare(scan(), volume(np.zeros((D, H, W), np.uint8)), KEEP)
