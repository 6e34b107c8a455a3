"""Steps of training as CUDA graphs: a GPU that is told a whole step at once never waits for the next of its thousands of kernels.

On a network as small as the default U-Net, telling takes four times as long as computing.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

WARM = 3                                                         # plain steps of a kind, in which libraries make ready


class Graphs:
    """`work`, played from recordings: one for each kind of step, which are the shapes of its inputs and a phase.

    `work` must do everything on the device, in place, and look at no number.
    """

    def __init__(self, work: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
        self.work, self.stream, self.early = work, torch.cuda.Stream(), torch.cuda.Stream()
        self.pool: Any = None                                    # recordings share their memory: only one plays at a time
        self.seen: dict[Hashable, int] = {}
        self.recordings: dict[Hashable, tuple[torch.cuda.CUDAGraph, dict[str, Tensor], dict[str, Tensor]]] = {}

    def __call__(self, make: Callable[[], dict[str, Tensor]], phase: str) -> dict[str, Tensor]:
        """What `work` returns for the inputs that `make` makes, which it does while the GPU is still at the step before."""
        with torch.cuda.stream(self.early):
            inputs = make()
        now = torch.cuda.current_stream()
        now.wait_stream(self.early)
        for x in inputs.values():
            x.record_stream(now)
        kind = (phase, *((name, x.shape) for name, x in inputs.items()))
        if kind not in self.recordings:
            self.seen[kind] = self.seen.get(kind, 0) + 1
            if self.seen[kind] <= WARM:
                return self.plain(inputs)
            self.recordings[kind] = self.record(inputs)
        graph, static, out = self.recordings[kind]
        for name, x in inputs.items():
            static[name].copy_(x, non_blocking=True)
        graph.replay()
        return {name: x.clone() for name, x in out.items()}

    def plain(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without a recording, on the stream of the recordings."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            out = self.work({name: x.clone() for name, x in inputs.items()})
        torch.cuda.current_stream().wait_stream(self.stream)
        return out

    def record(self, inputs: dict[str, Tensor]) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor], dict[str, Tensor]]:
        """The graph, the tensors that it reads, and those that it writes."""
        graph, static = torch.cuda.CUDAGraph(), {name: x.clone() for name, x in inputs.items()}
        # other threads, such as one that pins memory, may go on meanwhile
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            out = self.work(static)
        self.pool = graph.pool()
        return graph, static, out
