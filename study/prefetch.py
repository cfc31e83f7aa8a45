"""The next batches are made in a background thread while the step runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

B_co = TypeVar("B_co", covariant=True)


class Batches(Protocol[B_co]):
    """Batches by step: `batches[step]` is the same each time it is asked, whatever was asked before."""

    def __getitem__(self, step: int, /) -> B_co: ...


@contextmanager
def prefetched(batches: Batches[B_co], steps: Sequence[int], *, ahead: int = 2) -> Iterator[Iterator[B_co]]:
    """The batches of `steps` in order, `ahead` of them made beforehand by one thread that is gone on exit.

    What `batches[step]` raises is raised where that batch is due. The thread must not touch torch's global generator.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting: deque[Future[B_co]] = deque(pool.submit(batches.__getitem__, step) for step in steps[:ahead])

        def due() -> Iterator[B_co]:
            for step in steps[ahead:]:
                batch = waiting.popleft().result()
                waiting.append(pool.submit(batches.__getitem__, step))
                yield batch
            while waiting:
                yield waiting.popleft().result()

        try:
            yield due()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
