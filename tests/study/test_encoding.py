from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as any_array
from numpy.testing import assert_array_equal

from models.contents import Grid, Precision
from models.knowledge import enlarged
from models.registry import ends_of
from study.draws import generator
from study.encoding import decoded, differences, dtype_of, encoded, grids, packed, quantised, sums, unpacked
from study.tables import Encoding

SIZE = (13, 23)
SHAPES = st.tuples(*(st.integers(1, side) for side in (2, 3, 5, 7)))


@given(any_array(np.uint8, SHAPES))
def test_differences_lose_nothing(codes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    assert_array_equal(sums(differences(codes)), codes)


@given(any_array(np.uint8, SHAPES, elements=st.integers(0, 15)))
def test_two_codes_a_byte_lose_nothing(codes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    joined = packed(codes)
    assert joined.shape == (*codes.shape[:-1], -(-codes.shape[-1] // 2))
    assert_array_equal(unpacked(joined, codes.shape[-1]), codes)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_logit_is_its_code_within_half_a_step(bits: int) -> None:
    values = generator(0, "logits").normal(0, 5, (3, 2, *SIZE)).astype(np.float32)
    values[0, 0], values[0, 1, 0, 0], values[1, 0, 0, 0] = 3.5, 1e30, -np.inf
    codes, scale = quantised(values, bits)
    low, step = (scale[:, :, n, None, None] for n in (0, 1))
    assert codes.max() == 2**bits - 1
    assert_array_equal(codes[0, 0], 0)
    assert (np.abs(low + step * codes - values.clip(-65504, 65504)) <= 0.5001 * step).all()
    assert_array_equal((low + step * codes)[0, 0], 3.5)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_numbers_with_a_point_come_back_as_they_were_rounded(precision: Precision) -> None:
    told = {
        "logits": generator(0, "logits").normal(0, 9, (2, 3, *SIZE)).astype(np.float32),
        "attention/encoder": generator(0, "maps").random((2, 3, 5), np.float32),
        "contrast/encoder": generator(0, "contrast").random((2, 3), np.float32),
    }
    told["logits"][0, 0, 0, 0] = 1e20
    encoding = Encoding(precision=precision)
    found = decoded(encoded(told, encoding), encoding, size=SIZE, ends=None)
    assert found["contrast/encoder"].dtype == np.float32
    assert_array_equal(found["contrast/encoder"], told["contrast/encoder"])
    for name in ("logits", "attention/encoder"):
        exact = told[name] if precision == "float32" else told[name].clip(-65504, 65504).astype(np.float16)
        assert found[name].dtype == exact.dtype
        assert_array_equal(found[name], exact)


@pytest.mark.parametrize("precision", ["uint8", "4bit"])
def test_maps_of_a_known_span_keep_their_ends_and_their_middle(precision: Precision) -> None:
    cosines = generator(0, "cosines").uniform(-1, 1, (2, 3, 5, 7)).astype(np.float32)
    cosines[0, 0, 0, :3] = -1, 0, 1
    encoding = Encoding(precision=precision)
    sent = encoded({"prototypes/decoder": cosines, "present/decoder": np.ones((2, 3), bool)}, encoding)
    assert sent["prototypes/decoder"].dtype == np.uint8
    found = decoded(sent, encoding, size=SIZE, ends=None)
    assert found["present/decoder"].all()
    assert found["prototypes/decoder"][0, 0, 0, :3].tolist() == [-1, 0, 1]
    assert np.abs(found["prototypes/decoder"] - cosines).max() <= 1 / 254 + 1e-3
    assert dtype_of("features/decoder", encoding) == np.float16


def test_codes_that_mean_nothing_stay_within_the_span() -> None:
    codes = differences(np.full((1, 2, 3), 255, np.uint8))
    found = decoded({"attention/encoder": codes}, Encoding(precision="uint8"), size=SIZE, ends=None)
    assert_array_equal(found["attention/encoder"], 1)


def test_the_grids_that_logits_may_come_on() -> None:
    fcn, unet = ends_of("fcn", {}), ends_of("unet", {})
    assert grids(Encoding(), SIZE, fcn) == [SIZE]
    assert grids(Encoding(grid="teacher"), SIZE, fcn) == [(2, 3), SIZE]
    assert grids(Encoding(grid="half"), SIZE, fcn) == [(2, 3), (7, 12)]
    assert grids(Encoding(grid="half"), SIZE, unet) == [(7, 12)]
    assert ends_of("a network of another framework", {}) is None


@pytest.mark.parametrize("model", ["fcn", "pspnet-resnet18", "unet"])
@pytest.mark.parametrize("precision", get_args(Precision))
def test_logits_of_every_precision_and_grid_come_back_on_the_slice(precision: Precision, model: str) -> None:
    name, _, encoder = model.partition("-")
    ends = ends_of(name, {"encoder": encoder} if encoder else {})
    for grid in get_args(Grid):
        encoding = Encoding(precision=precision, grid=grid)
        for height, width in grids(encoding, SIZE, ends):
            logits = generator(0, "logits").normal(0, 4, (2, 3, height, width)).astype(np.float32)
            found = decoded(encoded({"logits": logits}, encoding), encoding, size=SIZE, ends=ends)
            corners = encoder != "" and (height, width) == (2, 3)
            whole = enlarged(torch.from_numpy(logits), SIZE, align_corners=corners).numpy()
            exact = logits if (height, width) == SIZE else whole
            step = (logits.max() - logits.min()) / {"uint8": 255, "4bit": 15}.get(precision, np.inf)
            assert found.keys() == {"logits"}
            assert np.abs(found["logits"] - exact).max() <= step / 2 + (0 if precision == "float32" else 0.02)


def test_logits_on_another_grid_are_told() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(1, 2, 4, 4\) for slices of \(13, 23\)"):
        decoded({"logits": np.zeros((1, 2, 4, 4), np.float16)}, Encoding(grid="teacher"), size=SIZE, ends=None)
