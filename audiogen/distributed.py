"""Several processes as one: torch.distributed where torchrun started them, and nothing at all where it did not."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share(items: int) -> range:
    """Which of a step's items this process takes: consecutive ones, as many as each other process."""
    each = items // world()
    return range(rank() * each, (rank() + 1) * each)


@contextmanager
def joined(device: str, patience: timedelta | None = None) -> Iterator[str]:
    """Within, this process is one of the group (nccl on GPUs, gloo elsewhere); yields its own device.

    Each waits `patience` for the others, or torch's own half hour or less.
    """
    local = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
    if world() == 1:
        yield device
        return
    if device == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=patience)
    try:
        yield local
    finally:
        dist.destroy_process_group()


def wait() -> None:
    """Until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def first(work: Callable[[], T]) -> T:
    """What rank 0 makes, in every process, when all have come here. If it raises, the others leave without a word."""
    if world() == 1:
        return work()
    found: T | None = None
    error: Exception | None = None
    dist.all_gather_object([None] * world(), None)
    if rank() == 0:
        try:
            found = work()
        except Exception as cause:
            error = cause
    box = [(found, error is None)]
    dist.broadcast_object_list(box)
    if error is not None:
        raise error
    if not box[0][1]:
        raise SystemExit(0)                                      # torchrun would stop rank 0 before it has said why
    return box[0][0]                                             # type: ignore[return-value]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in one message."""
    if not dist.is_initialized():
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= world()
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def gather(x: Tensor) -> Tensor:
    """x (B, ...) of every process, one after another (world * B, ...); gradients flow to this process's own part."""
    if not dist.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(parts, x.detach().contiguous())
    parts[rank()] = x
    return torch.cat(parts)


def largest(*values: float) -> tuple[float, ...]:
    """The largest that any process has of each of these: what all must go by, as no two clocks are alike."""
    if not dist.is_initialized():
        return values
    seen = torch.tensor(values, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(seen, dist.ReduceOp.MAX)
    return tuple(seen.tolist())
