"""What a site keeps of the study lead's slices: bounded, checked, the oldest first to go."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from client.shelf import Shelf
from study.wire import Arrays, digest


def slices(fill: int) -> Arrays:
    return {"images": np.full((2, 1, 5, 7), fill, np.float16), "masks": np.zeros((2, 5, 7), np.uint8)}


def test_what_is_kept_comes_back_until_room_is_needed(tmp_path: Path) -> None:
    one = len(next_file(tmp_path / "size"))
    shelf = Shelf(tmp_path / "shelf", 2 * one)
    keys = [digest(slices(fill)) for fill in range(3)]
    for age, (key, fill) in enumerate(zip(keys[:2], range(2), strict=True)):
        shelf.put(key, slices(fill))
        os.utime(tmp_path / "shelf" / f"{key}.safetensors", (100 + age, 100 + age))
    found = shelf.get(keys[0])  # used, so that the other is the oldest now
    assert found is not None
    assert_array_equal(found["images"], slices(0)["images"])
    shelf.put(keys[2], slices(2))
    assert [shelf.get(key) is not None for key in keys] == [True, False, True]


def next_file(folder: Path) -> bytes:
    Shelf(folder, 10**6).put("a" * 64, slices(0))
    return next(folder.iterdir()).read_bytes()


def test_nothing_is_kept_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    for most in (0, 10):
        Shelf(tmp_path, most).put(digest(slices(1)), slices(1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_what_was_damaged_is_not_kept(tmp_path: Path, damage: str) -> None:
    shelf, key = Shelf(tmp_path, 10**6), digest(slices(1))
    shelf.put(key, slices(1))
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes({"flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "cut": whole[:-9], "empty": b""}[damage])
    assert shelf.get(key) is None
    assert not path.exists(), "it is put there again with the next message"


@pytest.mark.parametrize("key", ["/etc/passwd", "../other", "", "A" * 64, "a" * 63])
def test_only_a_digest_names_a_file(tmp_path: Path, key: str) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"not the coordinator's to touch")
    assert Shelf(tmp_path / "shelf", 10**6).get(key) is None
    assert other.exists()


def test_less_room_than_before_empties_it(tmp_path: Path) -> None:
    key = digest(slices(1))
    Shelf(tmp_path, 10**6).put(key, slices(1))
    (tmp_path / ".cut.1a2b3c4d.tmp").write_bytes(b"of a service that was stopped")
    none = Shelf(tmp_path, 0)
    assert none.get(key) is None
    none.put(digest(slices(2)), slices(2))
    assert not list(tmp_path.iterdir())
