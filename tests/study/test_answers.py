from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from imaging.errors import InputError
from models.contents import CONTENTS, DEFAULT, arrays_of, content_of
from study.answers import Answers, AnswersHeader
from study.squeeze import expanded, row_of, squeezed
from study.wire import Failure, Shard, pack


def body(answers: Answers, **changes: Any) -> bytes:
    """The answers' bytes with other arrays, under `attention__encoder` for attention/encoder; None leaves one out."""
    arrays = everything(answers) | {name.replace("__", "/"): array for name, array in changes.items()}
    return pack(answers.header, {name: array for name, array in arrays.items() if array is not None})


def everything(answers: Answers) -> dict[str, Any]:
    return answers.arrays | {"slice_ids": answers.slice_ids}


def test_answers_come_back(answers: Answers, shard: Shard) -> None:
    found = Answers.unpack(answers.pack(), shard)
    assert found.header == answers.header
    assert everything(found).keys() == everything(answers).keys()
    for name, array in everything(answers).items():
        assert everything(found)[name].dtype == array.dtype
        assert_array_equal(everything(found)[name], array)


def test_what_a_policy_withholds_may_be_missing(answers: Answers, shard: Shard) -> None:
    assert Answers.unpack(answers.without("attention", "contrast").pack(), shard).arrays.keys() == {"logits"}
    some = Answers.unpack(answers.without("contrast").pack(), shard)
    assert some.contents == {"logits", "attention"}
    assert some.of("attention").keys() == {"attention/encoder", "attention/decoder"}
    assert some.of("contrast") == {}
    with pytest.raises(InputError, match="array `logits` is missing"):
        Answers.unpack(answers.without("logits").pack(), shard)


def test_every_truncation_is_an_input_error(answers: Answers, shard: Shard) -> None:
    whole = answers.pack()
    for length in range(0, len(whole), 7):
        with pytest.raises(InputError, match="cut short"):
            Answers.unpack(whole[:length], shard)


@pytest.mark.parametrize("last", [0, 1, 7])
def test_fewer_numbers_than_were_announced_are_not_filled_up(last: int) -> None:
    array = np.full(10, last, np.uint8)
    whole = expanded({"a": squeezed(array)}, {"a": row_of(array)})
    assert np.array_equal(whole["a"], array)
    with pytest.raises(InputError, match="fewer bytes than it says"):
        expanded({"a": squeezed(array)}, {"a": row_of(np.zeros(20, np.uint8))})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_input_error_or_harmless(answers: Answers, shard: Shard, data: st.DataObject) -> None:
    damaged = bytearray(answers.pack())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = Answers.unpack(bytes(damaged), shard)
    except InputError:
        return
    assert found.arrays["logits"].shape == answers.arrays["logits"].shape
    assert all(np.isfinite(array).all() for array in found.arrays.values())


def test_answers_to_something_else_are_refused(answers: Answers, shard: Shard) -> None:
    with pytest.raises(InputError, match="answers shard 1, asked was shard 2"):
        Answers.unpack(answers.pack(), replace(shard, index=2))
    with pytest.raises(InputError, match="answers slices that were not asked"):
        Answers.unpack(body(answers, slice_ids=np.array([5, 6, 8])), shard)
    foreign = replace(answers, header=answers.header.model_copy(update={"fingerprint": "0123456789ab"}))
    with pytest.raises(InputError, match=r"prepared as '0123456789ab', the study prepares them as '\w{12}'"):
        Answers.unpack(foreign.pack(), shard)


@pytest.mark.parametrize("name", ["slice_ids", "logits", "attention/encoder", "contrast/encoder", "valid/decoder"])
def test_an_array_of_another_shape_or_type_is_refused(answers: Answers, shard: Shard, name: str) -> None:
    array = everything(answers)[name]
    others = [
        array[:-1],
        array[None],
        array.astype(np.float64 if array.dtype != np.float64 else np.int8),
        array[0, ...],
    ]
    for other in (*others, np.array(0, array.dtype), array[:, ..., None]):
        with pytest.raises(InputError):
            Answers.unpack(body(answers, **{name.replace("/", "__"): other}), shard)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["logits", "attention/decoder", "contrast/decoder"])
def test_values_that_are_not_finite_are_refused(answers: Answers, shard: Shard, name: str, value: float) -> None:
    array = everything(answers)[name].copy()
    array.flat[5] = value
    with pytest.raises(InputError, match=f"array `{name}` holds NaN or infinity"):
        Answers.unpack(body(answers, **{name.replace("/", "__"): array}), shard)


def test_values_out_of_range_are_refused(answers: Answers, shard: Shard) -> None:
    maps, contrast = answers.arrays["attention/encoder"].copy(), answers.arrays["contrast/encoder"].copy()
    maps[0, 0, 0] = -0.25
    with pytest.raises(InputError, match=r"`attention/encoder` leaves \[0, 1\]: its smallest is -0.25"):
        Answers.unpack(body(answers, attention__encoder=maps), shard)
    for value in (1.01, -1.01):
        contrast[0, 0] = value
        with pytest.raises(InputError, match=r"`contrast/encoder` leaves \[-1, 1\]"):
            Answers.unpack(body(answers, contrast__encoder=contrast), shard)
    contrast[0, 0] = np.float32(1.00001)
    Answers.unpack(body(answers, contrast__encoder=contrast), shard)


@pytest.mark.parametrize("grid", [(0, 4), (17, 4), (4, 25), (16, 0)])
def test_maps_larger_than_the_slice_or_empty_are_refused(answers: Answers, shard: Shard, grid: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"has maps of \d+ × \d+ for slices of 16 × 24"):
        Answers.unpack(body(answers, attention__encoder=np.zeros((3, *grid), np.float16)), shard)


def test_what_was_not_asked_for_is_refused(answers: Answers, shard: Shard) -> None:
    for name in ("pixels", "weights/encoder", "attention/", "attention/../x", "attention", "contrast/A"):
        with pytest.raises(InputError, match=f"array `{name}` was not asked for"):
            Answers.unpack(pack(answers.header, everything(answers) | {name: np.zeros((3, 2, 2), np.float16)}), shard)
    with pytest.raises(InputError, match="array `attention/decoder` was not asked for"):
        Answers.unpack(answers.pack(), replace(shard, wants=("logits", "contrast")))
    with pytest.raises(InputError, match="array `contrast/decoder` was not asked for"):
        Answers.unpack(answers.pack(), replace(shard, wants=("logits", "attention")))


def test_a_tap_that_is_missing_is_told(answers: Answers, shard: Shard) -> None:
    with pytest.raises(InputError, match="array `attention/decoder` is missing"):
        Answers.unpack(body(answers, attention__decoder=None), shard)
    with pytest.raises(InputError, match="array `contrast/encoder` is missing"):
        Answers.unpack(body(answers, contrast__encoder=None, valid__encoder=None), shard)


def test_contrast_needs_its_flags(answers: Answers, shard: Shard) -> None:
    with pytest.raises(InputError, match="array `valid/encoder` is missing"):
        Answers.unpack(body(answers, valid__encoder=None), shard)
    with pytest.raises(InputError, match="array `contrast/encoder` is missing"):
        Answers.unpack(body(answers, contrast__encoder=None), shard)


def test_a_site_name_that_would_leave_the_store_is_refused(answers: Answers, shard: Shard) -> None:
    header = AnswersHeader.model_construct(**(answers.header.model_dump() | {"site": "../../etc"}))
    with pytest.raises(InputError, match="header of AnswersHeader: site"):
        Answers.unpack(pack(header, everything(answers)), shard)


def test_a_sites_failure_is_raised(shard: Shard) -> None:
    with pytest.raises(InputError, match=r"^site north: out of memory; use fewer threads$"):
        Answers.unpack(pack(Failure(cause="out of memory", site="north", remedy="use fewer threads")), shard)


def test_contents_are_what_a_shard_asks_for(shard: Shard) -> None:
    assert shard.wants == DEFAULT
    assert {content_of(array) for content in CONTENTS for array in arrays_of(content)} == set(CONTENTS)
