"""Threads that judge networks side by side.

Judging a network is torch work, which releases the interpreter lock: threads of one process use
all cores without copies of the data or the network, and start at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from prune_gym.utils.memory import memory_bound
from prune_gym.utils.stopping import finish_pieces

T = TypeVar("T")
R = TypeVar("R")


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch operations of this thread use ``n`` cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Let torch operations of this thread use one core: small ones wait for each other on more."""
    return torch_threads(1)


def pin_worker() -> None:
    """Give torch one thread in a worker process of a vector environment (a daemonic one).

    Each of several workers would use all cores otherwise, and wait for the others. The environment
    variable ``OMP_NUM_THREADS`` has the last word.
    """
    if multiprocessing.current_process().daemon and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


class Workers:
    """A pool of threads that each run torch operations on their share of the cores.

    On an NVIDIA GPU each has a stream of its own, so that several networks are in flight at once;
    what they share must be there before they start.

    Args:
        n: number of threads; None = one per usable core.
        device: on which they work.
        cores: of each thread.

    Raises:
        OutOfMemoryError: the GPU has no memory left.
    """

    def __init__(
        self, n: int | None = None, device: torch.device | None = None, cores: int = 1
    ) -> None:
        self._cores, self._before = cores, torch.get_num_threads()
        self._n = n or usable_cores()
        self._streams: list[torch.cuda.Stream] = []  # one for each thread
        if device is not None and device.type == "cuda":
            with memory_bound(f"{device} is full; end other programs there"):
                torch.cuda.synchronize(device)
                for _ in range(self._n):
                    self._streams.append(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        self._pool = ThreadPoolExecutor(self._n, initializer=self._begin)

    def _begin(self) -> None:
        finish_pieces()  # who hands them out sees to it that there are no more
        torch.set_num_threads(self._cores)  # more would fight for the cores
        if self._streams:
            torch.cuda.set_stream(self._streams.pop())

    def map(self, function: Callable[[T], R], items: list[T]) -> Iterator[R]:
        """Results in the order of the items, as they come; the first error is raised."""
        return (one.result() for one in self.each(function, items))

    def each(self, function: Callable[[T], R], items: list[T]) -> Iterator[Future[R]]:
        """Items that are done, in their order, as they come; one that failed holds its error.

        A single thread begins an item when the caller comes back for its result, and is done with
        those before: whoever dies with one item takes no other along. It begins none after one that
        failed. Several threads are at all of them, whichever fails.
        """
        if self._n == 1:
            for item in items:
                wait([one := self.submit(function, item)])
                yield one
                if one.exception() is not None:
                    return
            return
        begun = [self.submit(function, item) for item in items]
        try:
            for one in begun:
                wait([one])
                yield one
        finally:
            for one in begun:
                one.cancel()

    def submit(self, function: Callable[[T], R], item: T) -> Future[R]:
        """Begin one item."""
        return self._pool.submit(function, item)

    def close(self, wait: bool = True) -> None:
        """End the threads; what has not begun is dropped.

        Args:
            wait: for what they are at.
        """
        self._pool.shutdown(wait=wait, cancel_futures=True)
        # what a thread sets is where later threads begin
        last = threading.Thread(target=torch.set_num_threads, args=(self._before,))
        last.start()
        last.join()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # a second Ctrl-C is not to wait for a network that takes for ever
        self.close(wait=kind is None or not issubclass(kind, KeyboardInterrupt))
