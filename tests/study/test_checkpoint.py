from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from imaging.errors import InputError
from study.checkpoint import FILE
from study.draws import generator
from study.training import fit, load_best, weights_hash
from study.wire import digest


@pytest.fixture
def trained(small: ModuleType, tmp_path: Path) -> Path:
    """A folder with a training stopped halfway."""
    small.train(tmp_path, until=4)
    return tmp_path


def test_every_truncation_is_told(trained: Path, small: ModuleType) -> None:
    whole = (trained / FILE).read_bytes()
    for length in range(0, len(whole), 499):
        (trained / FILE).write_bytes(whole[:length])
        with pytest.raises(
            InputError, match="damaged or no checkpoint of ours; remove the folder to train from the start"
        ):
            load_best(trained)
    with pytest.raises(InputError, match=FILE):
        small.train(trained)


def test_no_flipped_bit_reaches_the_weights(trained: Path) -> None:
    whole, before = (trained / FILE).read_bytes(), weights_hash(load_best(trained))
    for place in generator(0, "flips").integers(len(whole), size=150):
        flipped = bytearray(whole)
        flipped[place] ^= 16
        (trained / FILE).write_bytes(flipped)
        try:
            found = weights_hash(load_best(trained))
        except InputError:
            continue
        assert found == before


def test_a_pickle_is_not_run(trained: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {trained / 'ran'}",)

    (trained / FILE).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError):
        load_best(trained)
    torch.save({"best": Bomb()}, trained / FILE)
    with pytest.raises(InputError):
        load_best(trained)
    assert not (trained / "ran").exists()


def test_another_torch_file_is_no_checkpoint(trained: Path) -> None:
    torch.save({"best": {}}, trained / FILE)
    with pytest.raises(InputError, match="no checkpoint of ours"):
        load_best(trained)


def test_a_checkpoint_of_another_training_is_refused(trained: Path, small: ModuleType) -> None:
    learner = small.Learner()
    with pytest.raises(InputError, match=r"of another training: its seed differs; remove the folder"):
        fit(learner, small.Batches(), small.plan(seed=1), trained, validate=learner.agreement)
    with pytest.raises(InputError, match="of another training: its steps differs"):
        fit(learner, small.Batches(), small.plan(44), trained, validate=learner.agreement)


def test_a_checkpoint_of_another_network_is_refused(trained: Path, small: ModuleType) -> None:
    learner = small.Learner()
    learner.network.append(torch.nn.Conv2d(2, 2, 1))
    with pytest.raises(InputError, match="of another network; remove the folder"):
        fit(learner, small.Batches(), small.plan(), trained, validate=None)


def test_what_killed_writers_left_is_removed(trained: Path, small: ModuleType) -> None:
    (trained / f".{FILE}.0a1b2c3d.tmp").write_bytes(b"half")
    (trained / "notes.txt").write_text("kept")
    small.train(trained, until=5)
    assert sorted(path.name for path in trained.iterdir()) == [FILE, "notes.txt"]


def test_a_full_disk_is_told_and_the_former_checkpoint_stays(
    trained: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (trained / FILE).read_bytes()

    def full(content: object, path: Path) -> None:
        path.write_bytes(b"PK")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="cannot be written; free some space and run again"):
        small.train(trained)
    assert [path.name for path in trained.iterdir()] == [FILE]
    assert (trained / FILE).read_bytes() == before


def test_best_weights_of_an_untrained_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no checkpoint; train first"):
        load_best(tmp_path)


def test_the_hash_tells_names_shapes_types_and_values_and_is_the_wires(tmp_path: Path) -> None:
    weights = {"a.weight": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}
    assert weights_hash(weights) == digest({"n": np.array(3), "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)})
    others = [
        {"a.weight": torch.arange(6.0).view(3, 2), "n": torch.tensor(3)},
        {"a.weight": torch.arange(6.0).view(2, 3), "n": torch.tensor([3])},
        {"a.weight": torch.arange(6.0).view(2, 3).double(), "n": torch.tensor(3)},
        {"b.weight": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)},
        {"a.weight": torch.arange(6.0).view(2, 3) + 1e-6, "n": torch.tensor(3)},
    ]
    assert len({weights_hash(other) for other in [weights, *others]}) == 6
    strided = torch.arange(6.0).view(3, 2).T.contiguous().T
    assert weights_hash({"a": strided}) == weights_hash({"a": torch.arange(6.0).view(3, 2)})
