from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save

from imaging.errors import InputError
from imaging.metrics import METRICS as METRICS_MEASURED
from study.wire import (
    NO_MASK,
    Arrays,
    Assignment,
    Card,
    CaseMetrics,
    Epoch,
    EvaluateReply,
    EvaluateRequest,
    Failure,
    LacksError,
    Metric,
    Shard,
    TeachRequest,
    digest,
    expect,
    pack,
    unpack,
)

DTYPES = [np.bool_, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64]
ANY_ARRAY = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
METRICS: dict[Metric, Any] = {metric: {"left": 0.5, "right": 0.25} for metric in get_args(Metric)}
FAILURE = Failure(cause="the mask is empty", site="north", remedy="outline it")


@given(arrays=st.dictionaries(st.text("abcdef/._é", min_size=1, max_size=9), ANY_ARRAY, max_size=4))
def test_arrays_come_back_as_they_went(arrays: Arrays) -> None:
    header, found = unpack(pack(FAILURE, arrays), Failure)
    assert header == FAILURE
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert_array_equal(found[name], array)


def test_strided_and_scalar_arrays_come_back_as_they_went() -> None:
    arrays = {"turned": np.arange(30).reshape(2, 3, 5).T[::-1], "scalar": np.array(7), "empty": np.empty((0, 3))}
    _, found = unpack(pack(FAILURE, arrays), Failure)
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert_array_equal(found[name], array)


def test_every_header_comes_back(assignment: Assignment, card: Card) -> None:
    metrics = CaseMetrics(metrics=METRICS | {"hd95": {"left": 2.5, "right": None}})
    for header in (
        TeachRequest(assignment=assignment, until_epoch=5),
        card,
        EvaluateRequest(assignment=assignment, label="amtkd", model="enet", options={}),
        EvaluateReply(site="north", label="amtkd", weights_hash="ab", val=[], test=[metrics]),
        FAILURE,
    ):
        found, arrays = unpack(pack(header), type(header))
        assert found == header
        assert arrays == {}


def test_every_truncation_is_an_input_error(shard: Shard) -> None:
    body = shard.pack()
    for length in range(len(body)):
        with pytest.raises(InputError, match="not a message of Preceptor, or cut short"):
            Shard.unpack(body[:length])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_input_error_or_harmless(shard: Shard, data: st.DataObject) -> None:
    body = bytearray(shard.pack())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = Shard.unpack(bytes(body))
    except InputError:
        return
    assert found.images.shape == shard.images.shape
    assert np.isfinite(found.images).all()


@given(body=st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: struct.pack("<Q", len(tail)) + tail))
def test_rubbish_is_an_input_error(body: bytes) -> None:
    with pytest.raises(InputError, match="send it again"):
        unpack(body, Failure)


@pytest.mark.parametrize(
    "note",
    [
        '["version", "kind", "header"]', "[]", "3", "null", "{}", "not json", '{"version": 1}', "[" * 3000,
        '{"version": 1, "kind": "Failure", "header": {}, "more": 1}',
    ],
)  # fmt: skip
def test_a_foreign_safetensors_file_is_an_input_error(note: str) -> None:
    for metadata in ({"preceptor": note}, {"other": note}, None):
        with pytest.raises(InputError, match="not a message of Preceptor"):
            unpack(save({"a": np.zeros(2)}, metadata=metadata), Failure)


def forged(**changes: Any) -> bytes:
    note = {"version": 3, "kind": "Failure", "header": FAILURE.model_dump()} | changes
    return bytes(save({}, metadata={"preceptor": json.dumps(note)}))


def test_another_version_kind_or_header_is_told() -> None:
    with pytest.raises(InputError, match="message of version 1, we speak 3; install the same release on both ends"):
        unpack(forged(version=1), Failure)
    with pytest.raises(InputError, match="expected Failure, got 'Card'"):
        unpack(forged(kind="Card"), Failure)
    with pytest.raises(InputError, match="header of Failure: site: is missing; extra: is not a key of Failure"):
        unpack(forged(header={"cause": "c", "extra": 1}), Failure)
    with pytest.raises(InputError, match="header of Failure: cause: should be text"):
        unpack(forged(header={"cause": 3, "site": "north"}), Failure)
    wrong: tuple[Any, ...] = (None, [], "text", 3)
    for header in wrong:
        with pytest.raises(InputError, match="header of Failure"):
            unpack(forged(header=header), Failure)


def test_a_failure_is_raised_in_its_own_words() -> None:
    with pytest.raises(InputError, match=r"^site north: the mask is empty; outline it$"):
        unpack(pack(FAILURE), Card)
    assert unpack(pack(FAILURE), Failure)[0] == FAILURE
    with pytest.raises(InputError, match="header of Failure: site: is missing"):
        unpack(forged(header={"cause": "c"}), Card)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    with pytest.raises(InputError):
        unpack(pickle.dumps(Bomb()), Failure)
    with pytest.raises((SafetensorError, KeyError)):
        pack(FAILURE, {"a": np.array([Bomb()], dtype=object)})
    assert list(tmp_path.iterdir()) == []


def test_nan_in_a_header_is_refused_by_who_sends_it() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(ValidationError, match="finite"):
            Epoch(epoch=1, loss=value, dice=0.5, seconds=1.0)
        with pytest.raises(ValidationError, match="finite"):
            CaseMetrics(metrics=METRICS | {"hd95": {"left": value}})


def test_the_wires_metrics_are_those_that_are_measured() -> None:
    assert get_args(Metric) == METRICS_MEASURED


@pytest.mark.parametrize(
    "change",
    [
        {"dice": {"left": 7.5}}, {"iou": {"left": -0.1}}, {"hd95": {"left": -1.0}}, {"other": {"left": 0.5}},
        {"dice": {"left": 0.5, "right": 1.01}},
    ],
)  # fmt: skip
def test_metrics_that_cannot_be_are_refused(change: dict[Any, Any]) -> None:
    with pytest.raises(ValidationError):
        CaseMetrics(metrics=METRICS | change)
    with pytest.raises(ValidationError):
        CaseMetrics(metrics={})
    CaseMetrics(metrics=METRICS | {"hd95": {"left": 99.0, "right": None}})


def test_metrics_of_other_classes_or_of_no_case_are_refused() -> None:
    reply = EvaluateReply(site="north", label="amtkd", weights_hash="ab", val=[], test=[CaseMetrics(metrics=METRICS)])
    reply.check(["left", "right"])
    with pytest.raises(InputError, match=r"dice of \['left', 'right'\], the study's classes are \['left'\]"):
        reply.check(["left"])
    with pytest.raises(InputError, match="no test case"):
        reply.model_copy(update={"test": []}).check(["left", "right"])


@pytest.mark.parametrize(
    "change", [{"dice": 9.0}, {"patients": {}}, {"patients": {"train": 1, "val": 1}}, {"epochs": -1}]
)
def test_a_card_that_cannot_be_is_refused(card: Card, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Card(**(card.model_dump() | change))


@pytest.mark.parametrize("name", ["../north", "a/b", "", ".", "North", "a" * 42, "nörd"])
def test_a_name_that_would_leave_its_folder_is_refused(card: Card, name: str) -> None:
    with pytest.raises(ValidationError, match="site"):
        Card(**(card.model_dump() | {"site": name}))
    with pytest.raises(ValidationError, match="label"):
        EvaluateReply(site="north", label=name, weights_hash="ab", val=[], test=[])


def test_a_shard_comes_back(shard: Shard) -> None:
    found = Shard.unpack(shard.pack())
    assert (found.assignment, found.index, found.wants) == (shard.assignment, shard.index, shard.wants)
    for name in ("slice_ids", "images", "masks"):
        assert getattr(found, name).dtype == getattr(shard, name).dtype
        assert_array_equal(getattr(found, name), getattr(shard, name))


def test_a_shard_that_is_only_named_comes_from_what_is_kept(shard: Shard) -> None:
    kept = {digest(shard.slices): shard.slices}
    found = Shard.unpack(shard.pack(named=True), kept.get)
    assert_array_equal(found.images, shard.images)
    assert_array_equal(found.masks, shard.masks)
    with pytest.raises(LacksError, match="the slices of shard 1 are not kept here; send them again"):
        Shard.unpack(shard.pack(named=True))
    header, arrays = _opened(shard)
    for key in ("../../net", "/srv/net", ""):
        with pytest.raises(InputError, match="slices"):
            Shard.unpack(pack(header.model_copy(update={"slices": key}), {"slice_ids": shard.slice_ids}))
    other = pack(header, arrays | {"masks": np.zeros_like(shard.masks)})
    with pytest.raises(InputError, match="holds other slices than it names"):
        Shard.unpack(other)


def changed(shard: Shard, **arrays: Any) -> bytes:
    """The shard's bytes with other arrays, rightly named; None leaves one out."""
    header, old = _opened(shard)
    new = {name: array for name, array in (old | arrays).items() if array is not None}
    slices = {name: new[name] for name in ("images", "masks") if name in new}
    return pack(header.model_copy(update={"slices": digest(slices)}), new)


def _opened(shard: Shard) -> tuple[Any, Arrays]:
    from study.wire import ShardHeader

    return unpack(shard.pack(), ShardHeader)


@pytest.mark.parametrize("name", ["slice_ids", "images", "masks"])
def test_a_shard_without_an_array_or_of_another_shape_or_type_is_refused(shard: Shard, name: str) -> None:
    array = getattr(shard, name)
    with pytest.raises(InputError, match=f"array `{name}` is missing"):
        Shard.unpack(changed(shard, **{name: None}))
    for other in (array[None], array[..., :-1], array.astype(np.float64), np.array(3, array.dtype)):
        with pytest.raises(InputError, match="expected"):
            Shard.unpack(changed(shard, **{name: other}))


def test_a_shard_with_values_that_no_slice_has_is_refused(shard: Shard) -> None:
    images, masks = shard.images.copy(), shard.masks.copy()
    for value in (np.nan, np.inf):
        images[1, 0, 2, 3] = value
        with pytest.raises(InputError, match="`images` holds NaN or infinity"):
            Shard.unpack(changed(shard, images=images))
    masks[0, 1, 2] = 3
    with pytest.raises(InputError, match="shard 1 has mask values outside the study's 3 classes"):
        Shard.unpack(changed(shard, masks=masks))
    masks[0] = NO_MASK
    Shard.unpack(changed(shard, masks=masks))
    with pytest.raises(InputError, match="holds array `more`, which no shard has"):
        Shard.unpack(changed(shard, more=np.zeros(3)))


@pytest.mark.parametrize("ids", [[5, 6, 6], [7, 6, 8], [-1, 6, 7]])
def test_slice_ids_count_up(shard: Shard, ids: list[int]) -> None:
    with pytest.raises(InputError, match=r"slice ids that count up, got \["):
        Shard.unpack(changed(shard, slice_ids=np.array(ids)))


def test_an_empty_shard_is_refused(shard: Shard) -> None:
    with pytest.raises(InputError, match="slice ids"):
        Shard.unpack(changed(shard, slice_ids=shard.slice_ids[:0], images=shard.images[:0], masks=shard.masks[:0]))


def test_expect_tells_what_it_found() -> None:
    with pytest.raises(InputError, match=r"array `a` is float64 \(2, 3\), expected float16 \(3, 2\)"):
        expect({"a": np.zeros((2, 3))}, "a", np.float16, (3, 2))
    expect({"a": np.zeros((2, 3), bool)}, "a", np.bool_, (2, 3))


def test_the_digest_does_not_depend_on_order_or_layout() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.array(True)
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": np.asfortranarray(a)})
    others = [{"a": a}, {"a": a, "c": b}, {"a": a.T, "b": b}, {"a": a.astype(np.float32), "b": b}, {"a": a + 1, "b": b}]
    assert len({digest(arrays) for arrays in [{"a": a, "b": b}, *others]}) == 6
    assert digest({"empty": np.empty((0, 3))}) != digest({"empty": np.empty((3, 0))})
