from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from imaging.atomic import clear, replacing, write_bytes, write_text
from imaging.errors import InputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bytes_and_text_arrive_whole(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new" / "a.bin", b"\x00\xff")
    write_text(tmp_path / "new" / "a.txt", "Größe\n")
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "Größe\n"
    assert names(tmp_path / "new") == ["a.bin", "a.txt"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "before")

    def interrupted() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


def test_what_a_kill_leaves_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in (".cache.0a1b2c3d.tmp", ".cache.0a1b2c3d.old", ".cache.lock", ".cache2.0a1b2c3d.tmp", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / ".cache.deadbeef.tmp").write_text("half")
    clear(tmp_path / "cache")
    assert names(tmp_path) == [".cache.lock", ".cache2.0a1b2c3d.tmp", "cache"]


def test_an_interrupted_folder_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with replacing(target) as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "old").write_text("old")

    def interrupted() -> None:
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / "new").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["folder"]
    assert (target / "deep" / "old").read_text() == "old"


def test_a_folder_takes_a_folders_place(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert names(tmp_path / "folder") == ["second"]
    assert names(tmp_path) == ["folder"]


def test_a_full_disk_is_told_in_plain_words(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(InputError, match="No space left on device") as raised, replacing(tmp_path / "a"):
        raise full
    assert raised.value.where == tmp_path / "a"
    assert names(tmp_path) == []


def test_a_file_in_the_folders_way_is_told_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder"):
        write_text(tmp_path / "file" / "a.txt", "a")


def test_what_the_caller_raises_itself_passes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mine"), replacing(tmp_path / "a"):
        raise InputError("mine")


def test_the_old_folder_stays_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "cache", Path.replace
    folder.mkdir()
    (folder / "old").touch()

    def replace(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match="cannot be written"), replacing(folder) as temporary:
        temporary.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert (folder / "old").exists()
