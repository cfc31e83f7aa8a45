from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.meaniou import compute_iou
from monai.metrics.surface_distance import compute_average_surface_distance
from numpy.typing import NDArray
from torch.nn.functional import one_hot

from imaging.metrics import METRICS, Overlap, case_metrics, mean_dice, overlaps, surface_distances

CLASSES = ["background", "right ventricle", "myocardium", "left ventricle"]
STRUCTURES = {name: (label,) for label, name in enumerate(CLASSES) if label}
SPACING_MM = (3.0, 0.7, 1.1)
OF_ALL: Any = {"classes": len(CLASSES), "structures": STRUCTURES, "spacing_mm": SPACING_MM}
SHAPE = (5, 23, 29)

# Where the tests call MONAI themselves: it calls itself with an argument that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges.always_return:FutureWarning")


def labels(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    """Blobs of classes 1 to 3 that partly touch the border."""
    random, size = np.random.default_rng(seed), np.array(shape)
    array = np.zeros(shape, np.uint8)
    centres = {label: random.uniform(0, size) for label in (1, 2, 3)}
    for label, centre in centres.items():
        radii = random.uniform(1.5, np.maximum(size / 3, 2))
        array[sum(((np.indices(shape)[a] - centre[a]) / radii[a]) ** 2 for a in range(len(shape))) < 1] = label
    for label, centre in centres.items():
        array[tuple(centre.astype(int))] = label  # no class is covered wholly
    return array


def channels(array: NDArray[np.uint8]) -> torch.Tensor:
    """MONAI's one-hot (1, C, …)."""
    return one_hot(torch.from_numpy(array.astype(np.int64)), len(CLASSES)).movedim(-1, 0)[None].float()


def box(*spans: tuple[int, int]) -> NDArray[np.bool_]:
    array = np.zeros(SHAPE, bool)
    array[tuple(slice(*span) for span in spans)] = True
    return array


def test_the_worked_example_of_overlap() -> None:
    """|P| 100, |G| 120, overlap 88: AMTKD's Eq. 8 and 9, and EMKD's code."""
    overlap = Overlap(predicted=100, reference=120, both=88)
    assert overlap.dice == pytest.approx(0.8)
    assert overlap.voe == pytest.approx(0.33333333)
    assert overlap.voe_emkd == pytest.approx(0.10909091)
    assert 1 - overlap.dice / 2 == pytest.approx(0.6)  # Eq. 9 as printed
    assert overlap.iou == pytest.approx(overlap.dice / (2 - overlap.dice))


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_agrees_with_monai(seed: int) -> None:
    prediction, reference = labels(seed), labels(seed + 100)
    p, g = channels(prediction), channels(reference)
    ours = case_metrics(prediction, reference, **OF_ALL)
    theirs = {
        "dice": compute_dice(p, g, include_background=False),
        "iou": compute_iou(p, g, include_background=False),
        "hd95": compute_hausdorff_distance(p, g, percentile=95, spacing=list(SPACING_MM)),
        "assd": compute_average_surface_distance(p, g, symmetric=True, spacing=list(SPACING_MM)),
    }
    for metric, values in theirs.items():
        assert [ours[metric][name] for name in CLASSES[1:]] == pytest.approx(values[0].tolist(), rel=1e-5)
    assert list(ours["voe"].values()) == pytest.approx([1 - value for value in theirs["iou"][0].tolist()], rel=1e-5)


def test_metrics_are_named_by_foreground_class_and_ready_for_json() -> None:
    values = case_metrics(labels(1), labels(2), **OF_ALL)
    assert tuple(values) == METRICS
    assert all(list(named) == CLASSES[1:] for named in values.values())
    assert json.loads(json.dumps(values)) == values


@pytest.mark.parametrize(("axis", "mm"), [(0, 3.0), (1, 0.7), (2, 1.1)])
def test_distances_are_in_the_millimetres_of_their_axis(axis: int, mm: float) -> None:
    reference = box((1, 3), (5, 15), (5, 15))
    moved = np.roll(reference, 1, axis)
    hd95, _ = surface_distances(moved, reference, spacing_mm=SPACING_MM)
    assert hd95 == pytest.approx(mm)


def test_the_symmetric_mean_counts_both_surfaces() -> None:
    reference, prediction = box((2, 3), (5, 6), (5, 6)), box((2, 3), (5, 6), (5, 12))
    hd95, assd = surface_distances(prediction, reference, spacing_mm=(1, 1, 1))
    assert assd == pytest.approx((sum(range(7)) + 0) / 8)  # seven voxels 0 to 6 mm away, and one at 0
    assert hd95 == pytest.approx(np.percentile(range(7), 95))


@pytest.mark.filterwarnings("error")
def test_an_exact_prediction_is_perfect() -> None:
    values = case_metrics(labels(3), labels(3), **OF_ALL)
    best = {"dice": 1.0, "iou": 1.0, "voe": 0.0, "hd95": 0.0, "assd": 0.0}
    assert values == {metric: dict.fromkeys(CLASSES[1:], value) for metric, value in best.items()}


@pytest.mark.parametrize(
    ("predicted", "present", "expected"),
    [
        (False, False, {"dice": 1.0, "iou": 1.0, "voe": 0.0, "hd95": 0.0, "assd": 0.0}),
        (True, False, {"dice": 0.0, "iou": 0.0, "voe": 1.0, "hd95": None, "assd": None}),
        (False, True, {"dice": 0.0, "iou": 0.0, "voe": 1.0, "hd95": None, "assd": None}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_an_empty_side_gives(predicted: bool, present: bool, expected: dict[str, float | None]) -> None:
    organ = box((1, 3), (5, 15), (5, 15))
    values = case_metrics(
        organ * predicted, organ * present, classes=2, structures={"organ": (1,)}, spacing_mm=SPACING_MM
    )
    assert {metric: named["organ"] for metric, named in values.items()} == expected


def test_what_an_empty_side_gives_in_emkds_error() -> None:
    assert Overlap(0, 0, 0).voe_emkd == 0
    assert Overlap(0, 120, 0).voe_emkd == 0
    assert Overlap(100, 0, 0).voe_emkd == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_single_slice_compares_outlines_in_its_plane(seed: int) -> None:
    prediction, reference = labels(seed, SHAPE[1:]), labels(seed + 50, SHAPE[1:])
    ours = case_metrics(
        prediction[None], reference[None], classes=len(CLASSES), structures=STRUCTURES, spacing_mm=SPACING_MM
    )
    p, g = channels(prediction), channels(reference)
    hd95 = compute_hausdorff_distance(p, g, percentile=95, spacing=list(SPACING_MM[1:]))
    assd = compute_average_surface_distance(p, g, symmetric=True, spacing=list(SPACING_MM[1:]))
    assert list(ours["hd95"].values()) == pytest.approx(hd95[0].tolist(), rel=1e-5)
    assert list(ours["assd"].values()) == pytest.approx(assd[0].tolist(), rel=1e-5)


@settings(max_examples=7)
@given(seed=st.integers(0, 10_000), shift=st.tuples(st.integers(0, 4), st.integers(0, 22), st.integers(0, 28)))
def test_distances_do_not_depend_on_the_field_of_view_around(seed: int, shift: tuple[int, int, int]) -> None:
    prediction, reference = labels(seed), labels(seed + 1)
    around = [(s, n - s) for s, n in zip(shift, SHAPE, strict=True)]
    alone = case_metrics(prediction, reference, **OF_ALL)
    padded = case_metrics(
        np.pad(prediction, around),
        np.pad(reference, around),
        classes=len(CLASSES),
        structures=STRUCTURES,
        spacing_mm=SPACING_MM,
    )
    assert alone == padded


@settings(max_examples=7)
@given(seed=st.integers(0, 10_000))
def test_prediction_and_reference_may_be_exchanged(seed: int) -> None:
    prediction, reference = labels(seed), labels(seed + 1)
    there = case_metrics(prediction, reference, **OF_ALL)
    back = case_metrics(reference, prediction, **OF_ALL)
    for metric in METRICS:
        assert list(there[metric].values()) == pytest.approx(list(back[metric].values()))


def test_the_mean_dice_is_that_of_the_foreground_classes() -> None:
    prediction, reference = labels(7), labels(8)
    dice = case_metrics(prediction, reference, **OF_ALL)["dice"]
    assert mean_dice(prediction, reference, classes=4) == pytest.approx(
        np.mean([value or 0 for value in dice.values()])
    )
    assert mean_dice(prediction * 0, prediction * 0, classes=4) == 1


def test_overlaps_count_voxels() -> None:
    counts = overlaps(np.array([0, 1, 1, 2, 2, 2]), np.array([0, 1, 2, 2, 0, 2]), 3)
    assert counts == [Overlap(1, 2, 1), Overlap(2, 1, 1), Overlap(3, 3, 2)]


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (np.zeros((2, 3, 5)), np.zeros((2, 5, 3)), "differ in shape"),
        (np.full((2, 3, 5), 4), np.zeros((2, 3, 5)), "labels reach from 4 to 4, classes from 0 to 3"),
        (np.zeros((2, 3, 5)), np.full((2, 3, 5), 255), "labels reach from 255 to 255"),
        (np.full((2, 3, 5), -1), np.zeros((2, 3, 5)), "labels reach from -1 to -1"),
    ],
)
def test_labels_that_cannot_be_compared_are_refused(prediction: Any, reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        case_metrics(
            prediction.astype(np.int64),
            reference.astype(np.int64),
            classes=len(CLASSES),
            structures=STRUCTURES,
            spacing_mm=SPACING_MM,
        )


def test_regions_may_overlap_and_each_is_judged_as_one() -> None:
    prediction, reference = np.array([[[1, 2, 3, 0]]]), np.array([[[2, 2, 0, 1]]])
    regions = {"whole": (1, 2, 3), "core": (2, 3), "rim": (1,)}
    dice = case_metrics(prediction, reference, classes=4, structures=regions, spacing_mm=(1, 1, 1))["dice"]
    assert dice == {"whole": pytest.approx(4 / 6), "core": pytest.approx(2 / 4), "rim": 0.0}
