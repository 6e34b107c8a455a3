"""The U-Net as CUDA graphs: a GPU that is told a whole evaluation at once does not wait for the next of its hundreds of kernels.

Shapes: B items, C channels, h x w latents, L tokens, d width of a head.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from audiogen.diffusion.conditioning import Conditioning
from audiogen.models.unet import Attended, Attention, Transformer, UNet

KEPT = 8                                                         # kinds of call whose recordings are kept, the latest
ROOM = 16                                                        # tokens: texts of up to as many share a recording
EVEN = 8                                                         # tokens without a mask that are left as they are: often fixed

Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]  # work -> what plays it


class Recorder:
    """Records work as CUDA graphs, which share their memory: only one plays at a time, and its result is good until the next."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream, self.pool = device, torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                work()                                           # libraries make ready
            torch.cuda.current_stream().wait_stream(self.stream)
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                out = work()

        def play() -> Tensor:
            graph.replay()
            return out

        return play


@dataclass
class Take:
    """A recording, and the tensors that it reads."""

    x: Tensor                                                    # (B, C, h, w)
    step: Tensor                                                 # (B,) float32
    text: Attended                                               # keys and values (B, heads, L or more, d), masks, film
    play: Callable[[], Tensor]
    heard: Attended | None = None                                # what was copied to `text` last


class Recorded:
    """A U-Net to infer with, played from a recording for each kind of call: sizes of latents and texts, masks or none.

    While someone looks into the network or changes it (hooks, as loops have them; edited attention), it is run as it is.
    """

    def __init__(self, unet: UNet, record: Record | None = None) -> None:
        self.unet, self.dtype, self.record = unet, unet.dtype, record
        self.takes: dict[Hashable, Take] = {}                    # the latest used last
        self.modules = list(unet.modules())
        self.attentions = [m for m in self.modules if isinstance(m, Attention)]
        self.layers = [m for m in self.modules if isinstance(m, Transformer) and m.target is not None]

    @torch.inference_mode()
    def __call__(self, x: Tensor, step: Tensor, text: Attended) -> Tensor:
        """As UNet.forward: x (B, C, h, w), step (B,) -> (B, C, h, w)"""
        if self.touched():
            return self.unet(x, step, text)
        kind = (x.shape, x.dtype, *((c.dtype, _room(c, m)) for c, m in zip(text.cond.contexts, text.cond.masks, strict=True)))
        take = self.takes.pop(kind, None)
        if take is None:
            while len(self.takes) >= KEPT:
                del self.takes[next(iter(self.takes))]
            take = self._take(x, step, text)
        self.takes[kind] = take
        take.x.copy_(x)
        take.step.copy_(step)
        self._tell(take, text)
        return take.play().clone()

    def touched(self) -> bool:
        """Does a hook or an edit reach into the network now?"""
        return any(a.edit is not None for a in self.attentions) or any(m._forward_hooks or m._forward_pre_hooks
                                                                       for m in self.modules)

    def _take(self, x: Tensor, step: Tensor, text: Attended) -> Take:
        """A new recording, for inputs like these."""
        rooms = [_room(c, m) for c, m in zip(text.cond.contexts, text.cond.masks, strict=True)]

        def wide(values: Tensor, length: int) -> Tensor:         # (B, heads, L, d) -> (B, heads, length, d)
            return values.new_zeros((*values.shape[:2], length, values.shape[3]))

        known = {id(layer): [(wide(k, rooms[layer.target][0]), wide(v, rooms[layer.target][0]))      # type: ignore[index]
                             for k, v in text.known(layer) or ()] for layer in self.layers}
        masks = tuple(x.new_zeros((len(x), length), dtype=torch.bool) if masked else None for length, masked in rooms)
        film = None if text.cond.film is None else text.cond.film.clone()
        still = Attended(Conditioning((), masks, film), known)
        take = Take(x.clone(), step.clone(), still, lambda: x)
        self._tell(take, text)
        self.record = self.record or Recorder(x.device)
        take.play = self.record(lambda: self.unet(take.x, take.step, still))
        return take

    def _tell(self, take: Take, text: Attended) -> None:
        """Copy a text to where the recording reads it, unless it lies there already."""
        if take.heard is text:
            return
        for to, mask, context in zip(take.text.cond.masks, text.cond.masks, text.cond.contexts, strict=True):
            if to is not None:                                   # what lies behind a shorter text is not attended to
                to.zero_()[:, : context.shape[1]] = True if mask is None else mask
        for layer in self.layers:
            for room, new in zip(take.text.known(layer) or (), text.known(layer) or (), strict=True):
                for to, values in zip(room, new, strict=True):
                    to[:, :, : values.shape[2]].copy_(values)
        if take.text.cond.film is not None and text.cond.film is not None:
            take.text.cond.film.copy_(text.cond.film)
        take.heard = text


def _room(context: Tensor, mask: Tensor | None) -> tuple[int, bool]:
    """Tokens that a recording has for a context (B, L, D) with this mask (B, L), and whether it masks some of them."""
    length = context.shape[1]
    return (length, False) if mask is None and length % EVEN == 0 else (-(-length // ROOM) * ROOM, True)
