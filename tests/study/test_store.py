from __future__ import annotations

import json
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from imaging.errors import InputError
from models.contents import DEFAULT
from study.answers import Answers
from study.draws import generator
from study.store import AnswerStore
from study.tables import Encoding
from study.wire import Card

Renumber = Callable[..., Answers]


@pytest.fixture
def store(tmp_path: Path) -> AnswerStore:
    return AnswerStore(tmp_path / "store", shard_slices=3, slices="these")


@pytest.fixture
def numbered(answers: Answers) -> Renumber:
    """Answers to another shard of n slices, of another site if named; its values differ from every other shard's."""

    def make(index: int, n: int = 3, site: str = "north") -> Answers:
        header = answers.header.model_copy(update={"index": index, "site": site})
        ids = np.arange(3 * index, 3 * index + n) * 2
        short = {name: array[:n] for name, array in answers.arrays.items()}
        return Answers(header, ids, short | {"logits": short["logits"] + np.float16(index)})

    return make


def equal(a: Answers, b: Answers) -> bool:
    pairs = [(a.slice_ids, b.slice_ids), *((array, b.arrays[name]) for name, array in a.arrays.items())]
    return (
        a.header == b.header
        and a.arrays.keys() == b.arrays.keys()
        and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)
    )


def with_logits(answers: Answers, logits: Any) -> Answers:
    return replace(answers, arrays=answers.arrays | {"logits": logits})


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_answers_come_back_in_order_from_a_store_opened_anew(
    store: AnswerStore, numbered: Renumber, card: Card
) -> None:
    written = {index: numbered(index, 2 if index == 4 else 3) for index in (4, 0, 3, 1, 2)}
    for answers in written.values():
        store.write(answers, card, DEFAULT)
    again = AnswerStore(store.folder, shard_slices=3, slices="these")
    assert again.sites() == ["north"]
    assert again.card("north") == card
    assert again.shards("north", DEFAULT) == [0, 1, 2, 3, 4]
    assert all(equal(written[answers.header.index], answers) for answers in again.in_order("north", DEFAULT))
    assert [answers.header.index for answers in again.in_order("north", DEFAULT)] == [0, 1, 2, 3, 4]


def test_what_is_missing_is_known(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    assert store.sites() == []
    assert list(store.missing("north", 3, DEFAULT)) == [0, 1, 2]
    for index in (5, 2):
        store.write(numbered(index), card, DEFAULT)
    assert list(store.missing("north", 7, DEFAULT)) == [0, 1, 3, 4, 6]
    assert store.shards("north", DEFAULT) == [2, 5]
    assert list(store.missing("south", 2, DEFAULT)) == [0, 1]
    with pytest.raises(InputError, match="logits of shard 3 of site north is not there; collect again"):
        store.read("north", 3, DEFAULT)


def test_sites_do_not_mix(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(1, site="south"), card.model_copy(update={"site": "south", "dice": 0.25}), DEFAULT)
    store.write(numbered(0), card, DEFAULT)
    assert store.sites() == ["north", "south"]
    assert (store.shards("north", DEFAULT), store.shards("south", DEFAULT)) == ([0], [1])
    assert store.card("south").dice == 0.25


def test_a_shard_that_comes_twice_is_there_once(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(1), card, DEFAULT)
    before = store.checksums("north", "logits")
    store.write(numbered(1), card, DEFAULT)
    assert store.checksums("north", "logits") == before
    assert equal(store.read("north", 1, DEFAULT), numbered(1))


def test_checksums_change_with_the_answers(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card, DEFAULT)
    before = store.checksums("north", "logits")
    changed = with_logits(numbered(0), numbered(0).arrays["logits"] + np.float16(0.5))
    store.write(changed, card, DEFAULT)
    assert before.keys() == store.checksums("north", "logits").keys() == {"0"}
    assert before != store.checksums("north", "logits")
    assert equal(store.read("north", 0, DEFAULT), changed)


def test_another_teacher_is_refused(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card, DEFAULT)
    other = card.model_copy(update={"weights_hash": "cd" * 32})
    late = numbered(1)
    late = replace(late, header=late.header.model_copy(update={"weights_hash": "cd" * 32}))
    with pytest.raises(
        InputError, match=r"the teacher has changed since its first answers; remove .*north and collect again"
    ):
        store.write(late, other, DEFAULT)
    with pytest.raises(InputError, match="site north: answers come from another teacher than the card names"):
        store.write(numbered(1), other, DEFAULT)
    with pytest.raises(InputError, match="another teacher than the card names"):
        store.write(numbered(1, site="south"), card, DEFAULT)
    assert store.shards("north", DEFAULT) == [0]
    assert store.sites() == ["north"]


def test_a_site_that_says_less_or_more_halfway_is_told(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card, DEFAULT)
    with pytest.raises(
        InputError, match=r"hold other arrays than the first ones did; remove .*north and collect again"
    ):
        store.write(numbered(1).without("attention"), card, DEFAULT)
    assert store.shards("north", DEFAULT) == [0]


def test_a_store_of_other_shards_is_told(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card, DEFAULT)
    with pytest.raises(InputError, match="in shards of 3 slices, the study has 4"):
        AnswerStore(store.folder, shard_slices=4, slices="these").read("north", 0, DEFAULT)
    with pytest.raises(ValueError, match="3 slices in a shard of 2"):
        AnswerStore(store.folder, shard_slices=2, slices="these").write(numbered(0), card, DEFAULT)


def test_a_store_of_another_encoding_is_told_with_its_remedy(
    store: AnswerStore, numbered: Renumber, card: Card
) -> None:
    store.write(numbered(0), card, DEFAULT)
    other = AnswerStore(store.folder, shard_slices=3, slices="these", encoding=Encoding(precision="uint8"))
    expected = r"answers lie as float16 on grid `full`, the study asks for uint8 on grid `full`; restore .* or remove"
    for use in (lambda: other.missing("north", 3, DEFAULT), lambda: other.write(numbered(1), card, DEFAULT)):
        with pytest.raises(InputError, match=expected):
            use()


def test_a_store_from_before_there_were_encodings_is_read(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card, DEFAULT)
    for note in store.folder.glob("north/*/*/zarr.json"):
        content = json.loads(note.read_text())
        del content["attributes"]["encoding"]
        note.write_text(json.dumps(content))
    assert equal(store.read("north", 0, DEFAULT), numbered(0))


FAULTS = ("cut", "missing", "flipped", "empty")


@pytest.mark.parametrize(
    ("array", "fault"),
    [*product(("logits/logits", "logits/slice_ids", "contrast/valid/encoder"), FAULTS), ("logits/logits", "foreign")],
)
def test_a_damaged_shard_is_named_and_asked_again(
    store: AnswerStore, numbered: Renumber, card: Card, array: str, fault: str
) -> None:
    for index in range(3):
        store.write(numbered(index), card, DEFAULT)
    chunks = sorted(path for path in (store.folder / "north" / "round-000" / array / "c").rglob("*") if path.is_file())
    whole = chunks[1].read_bytes()
    left = {
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:-1] + bytes([whole[-1] ^ 64]),
        "empty": b"",
        "foreign": chunks[0].read_bytes(),
    }
    chunks[1].unlink()
    if fault != "missing":
        chunks[1].write_bytes(left[fault])
    with pytest.raises(
        InputError, match=r"north/round-000/\w+: \w+ of shard 1 of site north is damaged; collect again: only this"
    ):
        store.read("north", 1, DEFAULT)
    marks = next((store.folder / "north" / "round-000").glob("*/damaged"))
    for name in (".DS_Store", "1 copy", "1~"):  # as file managers and editors leave behind
        (marks / name).touch()
    assert list(store.missing("north", 3, DEFAULT)) == [1]
    assert equal(store.read("north", 2, DEFAULT), numbered(2))
    broken = chunks[1].read_bytes() if fault != "missing" else b""
    chunks[1].write_bytes(whole)
    assert not store.missing("north", 3, DEFAULT), "the file was put back"
    chunks[1].write_bytes(broken)
    with pytest.raises(InputError, match="is damaged"):
        store.read("north", 1, DEFAULT)
    store.write(numbered(1), card, DEFAULT)
    assert equal(store.read("north", 1, DEFAULT), numbered(1))
    assert not store.missing("north", 3, DEFAULT)


def test_a_damaged_short_shard_between_others_is_stored_anew(
    store: AnswerStore, numbered: Renumber, card: Card
) -> None:
    shards = [numbered(0), numbered(1, n=2), numbered(2)]
    for one in shards:
        store.write(one, card, DEFAULT)
    chunks = store.folder / "north" / "round-000" / "logits" / "logits" / "c"
    cut = sorted(path for path in chunks.rglob("*") if path.is_file())[1]
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(InputError, match="shard 1 of site north is damaged"):
        store.read("north", 1, DEFAULT)
    store.write(shards[1], card, DEFAULT)
    assert all(equal(store.read("north", n, DEFAULT), shards[n]) for n in range(3))


@pytest.mark.parametrize("name", ["zarr.json", "checksum/zarr.json"])
@pytest.mark.parametrize("left", [b"", b"{", b"{}", b"[]", b"null", b"\xff"])
def test_a_damaged_group_is_told_with_its_remedy(
    store: AnswerStore, numbered: Renumber, card: Card, name: str, left: bytes
) -> None:
    store.write(numbered(0), card, DEFAULT)
    (store.folder / "north" / "round-000" / "logits" / name).write_bytes(left)
    for use in (lambda: store.read("north", 0, DEFAULT), lambda: store.write(numbered(1), card, DEFAULT)):
        with pytest.raises(
            InputError, match=r"the answers of site north cannot be read .*; remove .*north and collect again"
        ):
            use()


def test_a_full_disk_at_the_checksum_leaves_no_shard_that_counts(
    store: AnswerStore, numbered: Renumber, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(AnswerStore, "_mark", full)
        with pytest.raises(InputError, match="answers cannot be stored; free some space and collect again"):
            store.write(numbered(0), card, DEFAULT)
    assert store.shards("north", DEFAULT) == []
    store.write(numbered(0), card, DEFAULT)
    assert store.shards("north", DEFAULT) == [0]


def test_a_damaged_checksum_is_told(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card, DEFAULT)
    damage(store.folder / "north" / "round-000" / "logits" / "checksum" / "c" / "0" / "0")
    with pytest.raises(InputError, match="site north"):
        store.read("north", 0, DEFAULT)


def test_zarr_alone_reads_it(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card, DEFAULT)
    group = zarr.open_group(store.folder / "north" / "round-000" / "logits", mode="r")
    assert group.metadata.zarr_format == 3
    logits = group["logits"]
    assert isinstance(logits, zarr.Array)
    assert logits.chunks == (3, 3, 16, 24)
    assert_array_equal(np.asarray(logits[:]), numbered(0).arrays["logits"])


def test_smooth_logits_take_less_than_half_and_noise_no_more_than_itself(
    tmp_path: Path, answers: Answers, card: Card
) -> None:
    draw, side = generator(0, "size"), np.linspace(-4, 4, 192)
    smooth = np.stack([np.hypot(side[:, None] - shift, side[None]) for shift in draw.normal(size=(6))])
    noise = draw.normal(size=(3, 2, 192, 192))
    sizes = {}
    for name, logits in (("smooth", smooth.reshape(3, 2, 192, 192)), ("noise", noise)):
        store = AnswerStore(tmp_path / name, shard_slices=3, slices="these")
        store.write(Answers(answers.header, answers.slice_ids, {"logits": logits.astype(np.float16)}), card, DEFAULT)
        sizes[name] = sum(path.stat().st_size for path in store.folder.rglob("c/**/*") if path.is_file()) / (
            2 * logits.size
        )
    assert sizes["smooth"] < 0.5
    assert sizes["noise"] < 1.0


def test_memory_does_not_grow_with_the_shards(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    logits, peaks = np.ones((3, 2, 192, 192), np.float16), []
    for count in (2, 9):
        for index in range(len(store.shards("north", DEFAULT)), count):
            store.write(with_logits(numbered(index), logits), card, DEFAULT)
        tracemalloc.start()
        assert sum(len(answers.slice_ids) for answers in store.in_order("north", DEFAULT)) == 3 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2 * logits.nbytes


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from study.answers import Answers
from study.store import AnswerStore
from study.wire import Card
folder, card = Path(sys.argv[1]), Card.model_validate_json(sys.argv[2])
header = {"site": "north", "index": 0, "weights_hash": card.weights_hash, "fingerprint": card.fingerprint}
from study.answers import AnswersHeader
store = AnswerStore(folder, shard_slices=3, slices="these")
print("ready", flush=True)
for index in range(100000):
    logits = np.random.default_rng(index).normal(size=(3, 2, 96, 96)).astype(np.float16)
    ids, head = np.arange(3) + 3 * (index % 5), AnswersHeader(**header | {"index": index % 5})
    store.write(Answers(head, ids, {"logits": logits}), card, ["logits"])
    if index == 4:
        print("all", flush=True)
"""


@pytest.mark.slow
def test_a_kill_while_writing_leaves_no_shard_that_counts_and_is_not_whole(store: AnswerStore, card: Card) -> None:
    root, seen = Path(__file__).parents[2], set()
    for delay in (0.0, 0.03, 0.11, 0.17):
        command = [sys.executable, "-c", KILLED, str(store.folder), card.model_dump_json()]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            process.stdout.readline()
            if delay:
                process.stdout.readline()
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        shards = store.shards("north", ["logits"])
        seen |= set(shards)
        for index in shards:
            assert store.read("north", index, ["logits"]).slice_ids[0] == 3 * index
    assert len(seen) >= 4
