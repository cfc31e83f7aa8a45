from __future__ import annotations

import threading
import time

import pytest

from study.prefetch import prefetched


class Squares:
    """Batches that note which steps were made, and where."""

    def __init__(self, broken: int | None = None) -> None:
        self.made: list[int] = []
        self.threads: set[str] = set()
        self.broken = broken

    def __getitem__(self, step: int) -> int:
        self.made.append(step)
        self.threads.add(threading.current_thread().name)
        if step == self.broken:
            raise RuntimeError(f"step {step}")
        return step * step


@pytest.mark.parametrize("steps", [range(0), range(1), range(7, 9), range(3, 20)])
def test_batches_come_in_order_from_one_other_thread(steps: range) -> None:
    batches = Squares()
    with prefetched(batches, steps) as due:
        assert list(due) == [step * step for step in steps]
    assert batches.made == list(steps)
    assert threading.current_thread().name not in batches.threads
    assert len(batches.threads) <= 1


def test_no_more_than_asked_are_made_ahead() -> None:
    batches = Squares()
    with prefetched(batches, range(50), ahead=3) as due:
        for step in range(5):
            assert next(due) == step * step
        time.sleep(0.05)
        assert len(batches.made) <= 8


def test_an_error_comes_where_the_batch_is_due_and_the_thread_ends() -> None:
    batches = Squares(broken=4)
    taken: list[int] = []
    with pytest.raises(RuntimeError, match="step 4"), prefetched(batches, range(9)) as due:
        taken.extend(due)
    assert not [thread for thread in threading.enumerate() if thread.name in batches.threads]


def test_leaving_early_ends_the_thread() -> None:
    batches = Squares()
    with prefetched(batches, range(10**6)) as due:
        next(due)
    assert not [thread for thread in threading.enumerate() if thread.name in batches.threads]
    assert len(batches.made) <= 4
