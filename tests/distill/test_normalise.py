"""The normalisation inside an exported student gives what `imaging.preprocess` gives, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.normalise import normalise
from imaging.phantom import make
from imaging.preprocess import Preprocess, sample
from imaging.volume import Volume

INSIDE, BEYOND = Preprocess(size=(40, 56), spacing_mm=(1.75, 1.75)), Preprocess(size=(312, 296))
CT = Preprocess(size=(96, 72), spacing_mm=(3.5, 3.0), normalise="window", window_hu=(101.0, 907.0))


@pytest.fixture(scope="module")
def scan() -> Volume:
    return make("nci-isbi", seed=0, index=0).image


RANGE = BEYOND.model_copy(update={"normalise": "min-max"})


@pytest.mark.parametrize("plan", [INSIDE, BEYOND, CT, RANGE, BEYOND.model_copy(update={"percentiles": (0.0, 61.3)})])
def test_the_module_agrees_with_the_preprocessing(plan: Preprocess, scan: Volume) -> None:
    sampled = sample(scan, plan)
    assert np.isnan(sampled.intensities).any() == (plan is not INSIDE)
    found = normalise(plan)(torch.from_numpy(sampled.intensities)).numpy()
    np.testing.assert_array_equal(found, sampled.normalised().astype(np.float32))


@pytest.mark.parametrize("values", [3, 5])
def test_scans_of_few_values_agree_too(values: int) -> None:
    plan = Preprocess(size=(17, 19))
    array = np.random.default_rng(values).integers(values, size=(3, 11, 13)).astype(np.float32)
    sampled = sample(Volume(array, np.eye(4)[[2, 1, 0, 3]]), plan)
    found = normalise(plan)(torch.from_numpy(sampled.intensities)).numpy()
    np.testing.assert_array_equal(found, sampled.normalised().astype(np.float32))


def test_each_channel_has_its_own_scale() -> None:
    array = np.random.default_rng(3).gamma(2, 100, (3, 11, 13, 2)).astype(np.float32) * (1, 50)
    sampled = sample(Volume(array.astype(np.float32), np.eye(4)[[2, 1, 0, 3]]), Preprocess(size=(17, 19)))
    found = normalise(Preprocess(size=(17, 19)))(torch.from_numpy(sampled.intensities)).numpy()
    np.testing.assert_array_equal(found, sampled.normalised().astype(np.float32))
