"""Batches that are ready before they are asked for: other processes draw them while a GPU is busy with those before."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch.utils.data import DataLoader, Dataset

from audiogen.train.examples import Examples

READY = 4                                                        # batches that each process has ready
Key = tuple[int, range, float]                                   # step, items, seconds


class Draws(Protocol):
    """Where batches come from; the same step and items always give the same examples."""

    def batch(self, step: int, items: range, seconds: float) -> Examples: ...


class Drawn(Dataset[Examples]):
    """What a Draws gives for each key."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws

    def __getitem__(self, key: Key) -> Examples:
        return self.draws.batch(*key)


def workers(asked: int | None, device: str) -> int:
    """How many processes draw: those asked for, or as many as the machine has cores to spare beside a GPU."""
    if "fork" not in multiprocessing.get_all_start_methods():    # a copy of the samples in each process would be too much
        return 0
    if asked is None:
        return max(0, (os.cpu_count() or 1) - 1) if device.startswith("cuda") else 0
    return asked


@contextmanager
def ahead(draws: Draws, keys: Iterator[Key], processes: int, device: str = "cpu") -> Iterator[Iterator[Examples]]:
    """Within, the batches of `keys` in their order, drawn by so many processes, or by this one when they are asked for."""
    if not processes:
        yield (draws.batch(*key) for key in keys)
        return
    loader = DataLoader(Drawn(draws), batch_size=None, sampler=keys, num_workers=processes, prefetch_factor=READY,   # type: ignore[arg-type]
                        pin_memory=device.startswith("cuda"), multiprocessing_context="fork", worker_init_fn=deaf)
    batches = (examples for examples in loader)
    try:
        yield batches
    finally:
        batches.close()                                          # with it goes the loader's iterator, and so the processes


def deaf(worker: int) -> None:
    """Ctrl-C is for the process that saves; SIGTERM ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
