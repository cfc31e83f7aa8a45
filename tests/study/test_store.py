from __future__ import annotations

import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from imaging.errors import InputError
from study.answers import Answers
from study.draws import generator
from study.store import AnswerStore
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
        logits = (answers.logits + np.float16(index))[:n]
        short = {
            group: {tap: array[:n] for tap, array in getattr(answers, group).items()}
            for group in ("attention", "contrast", "valid")
        }
        return Answers(header, ids, logits, **short)

    return make


def equal(a: Answers, b: Answers) -> bool:
    pairs = [(array, b.arrays()[name]) for name, array in a.arrays().items()]
    return (
        a.header == b.header
        and a.arrays().keys() == b.arrays().keys()
        and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)
    )


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_answers_come_back_in_order_from_a_store_opened_anew(
    store: AnswerStore, numbered: Renumber, card: Card
) -> None:
    written = {index: numbered(index, 2 if index == 4 else 3) for index in (4, 0, 3, 1, 2)}
    for answers in written.values():
        store.write(answers, card)
    again = AnswerStore(store.folder, shard_slices=3, slices="these")
    assert again.sites() == ["north"]
    assert again.card("north") == card
    assert again.shards("north") == [0, 1, 2, 3, 4]
    assert all(equal(written[answers.header.index], answers) for answers in again.in_order("north"))
    assert [answers.header.index for answers in again.in_order("north")] == [0, 1, 2, 3, 4]


def test_what_is_missing_is_known(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    assert store.sites() == []
    assert store.missing("north", 3) == [0, 1, 2]
    for index in (5, 2):
        store.write(numbered(index), card)
    assert store.missing("north", 7) == [0, 1, 3, 4, 6]
    assert [store.has("north", index) for index in range(7)] == [False, False, True, False, False, True, False]
    assert store.missing("south", 2) == [0, 1]
    with pytest.raises(InputError, match="shard 3 of site north is not there; collect again"):
        store.read("north", 3)


def test_sites_do_not_mix(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(1, site="south"), card.model_copy(update={"site": "south", "dice": 0.25}))
    store.write(numbered(0), card)
    assert store.sites() == ["north", "south"]
    assert (store.shards("north"), store.shards("south")) == ([0], [1])
    assert store.card("south").dice == 0.25


def test_a_shard_that_comes_twice_is_there_once(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(1), card)
    before = store.checksums("north")
    store.write(numbered(1), card)
    assert store.checksums("north") == before
    assert equal(store.read("north", 1), numbered(1))


def test_checksums_change_with_the_answers(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card)
    before = store.checksums("north")
    changed = replace(numbered(0), logits=numbered(0).logits + np.float16(0.5))
    store.write(changed, card)
    assert before.keys() == store.checksums("north").keys() == {"0"}
    assert before != store.checksums("north")
    assert equal(store.read("north", 0), changed)


def test_another_teacher_is_refused(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card)
    other = card.model_copy(update={"weights_hash": "cd" * 32})
    late = numbered(1)
    late = replace(late, header=late.header.model_copy(update={"weights_hash": "cd" * 32}))
    with pytest.raises(
        InputError, match=r"the teacher has changed since its first answers; remove .*north and collect again"
    ):
        store.write(late, other)
    with pytest.raises(InputError, match="site north: answers come from another teacher than the card names"):
        store.write(numbered(1), other)
    with pytest.raises(InputError, match="another teacher than the card names"):
        store.write(numbered(1, site="south"), card)
    assert store.shards("north") == [0]
    assert store.sites() == ["north"]


def test_a_site_that_says_less_or_more_halfway_is_told(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card)
    with pytest.raises(
        InputError, match=r"hold other arrays than the first ones did; remove .*north and collect again"
    ):
        store.write(replace(numbered(1), attention={}), card)
    assert store.shards("north") == [0]


def test_a_store_of_other_shards_is_told(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card)
    with pytest.raises(InputError, match="in shards of 3 slices, the study has 4"):
        AnswerStore(store.folder, shard_slices=4, slices="these").read("north", 0)
    with pytest.raises(ValueError, match="3 slices in a shard of 2"):
        AnswerStore(store.folder, shard_slices=2, slices="these").write(numbered(0), card)


FAULTS = ("cut", "missing", "flipped", "empty")


@pytest.mark.parametrize(
    ("array", "fault"),
    [*product(("logits", "slice_ids", "valid/encoder"), FAULTS), ("logits", "foreign"), ("slice_ids", "foreign")],
)
def test_a_damaged_shard_is_named_and_asked_again(
    store: AnswerStore, numbered: Renumber, card: Card, array: str, fault: str
) -> None:
    for index in range(3):
        store.write(numbered(index), card)
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
        InputError, match=r"north/round-000: shard 1 of site north is damaged; collect again: only this"
    ):
        store.read("north", 1)
    assert store.missing("north", 3) == [1]
    assert equal(store.read("north", 2), numbered(2))
    store.write(numbered(1), card)
    assert equal(store.read("north", 1), numbered(1))


@pytest.mark.parametrize("name", ["zarr.json", "checksum/zarr.json"])
@pytest.mark.parametrize("left", [b"", b"{", b"{}", b"[]", b"null", b"\xff"])
def test_a_damaged_group_is_told_with_its_remedy(
    store: AnswerStore, numbered: Renumber, card: Card, name: str, left: bytes
) -> None:
    store.write(numbered(0), card)
    (store.folder / "north" / "round-000" / name).write_bytes(left)
    for use in (lambda: store.read("north", 0), lambda: store.write(numbered(1), card)):
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
            store.write(numbered(0), card)
    assert not store.has("north", 0)
    store.write(numbered(0), card)
    assert store.has("north", 0)


def test_a_damaged_checksum_is_told(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card)
    damage(store.folder / "north" / "round-000" / "checksum" / "c" / "0" / "0")
    with pytest.raises(InputError, match="site north"):
        store.read("north", 0)


def test_zarr_alone_reads_it(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    store.write(numbered(0), card)
    group = zarr.open_group(store.folder / "north" / "round-000", mode="r")
    assert group.metadata.zarr_format == 3
    logits = group["logits"]
    assert isinstance(logits, zarr.Array)
    assert logits.chunks == (3, 3, 16, 24)
    assert_array_equal(np.asarray(logits[:]), numbered(0).logits)


def test_smooth_logits_take_less_than_half_and_noise_no_more_than_itself(
    tmp_path: Path, answers: Answers, card: Card
) -> None:
    draw, side = generator(0, "size"), np.linspace(-4, 4, 192)
    smooth = np.stack([np.hypot(side[:, None] - shift, side[None]) for shift in draw.normal(size=(6))])
    noise = draw.normal(size=(3, 2, 192, 192))
    sizes = {}
    for name, logits in (("smooth", smooth.reshape(3, 2, 192, 192)), ("noise", noise)):
        store = AnswerStore(tmp_path / name, shard_slices=3, slices="these")
        store.write(replace(answers, logits=logits.astype(np.float16), attention={}, contrast={}, valid={}), card)
        sizes[name] = sum(path.stat().st_size for path in store.folder.rglob("c/**/*") if path.is_file()) / (
            2 * logits.size
        )
    assert sizes["smooth"] < 0.5
    assert sizes["noise"] < 1.0


def test_memory_does_not_grow_with_the_shards(store: AnswerStore, numbered: Renumber, card: Card) -> None:
    logits, peaks = np.ones((3, 2, 192, 192), np.float16), []
    for count in (2, 9):
        for index in range(len(store.shards("north")), count):
            store.write(replace(numbered(index), logits=logits), card)
        tracemalloc.start()
        assert sum(len(answers.slice_ids) for answers in store.in_order("north")) == 3 * count
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
    store.write(Answers(AnswersHeader(**header | {"index": index % 5}), np.arange(3) + 3 * (index % 5), logits), card)
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
        shards = store.shards("north")
        seen |= set(shards)
        for index in shards:
            assert store.read("north", index).slice_ids[0] == 3 * index
    assert len(seen) >= 4
