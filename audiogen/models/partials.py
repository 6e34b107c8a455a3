"""Phases of partials that go on from frame to frame, as a tone's do.

A network that looks at a steady mel says the same at each frame, so phases of its own can only belong to tones that repeat
with the hop; every other tone would be made of narrow noise, and waver. Here the network says how loud a partial is and at which
frequency, and the phase turns by that: each frame's goes on from the last one's, those around a peak together with it (as
in the phase-locked vocoder of Laroche and Dolson 1999). Shapes: B items, F frequencies, T frames.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 2                                                        # frequencies at either side that turn with the loudest of them


@torch.no_grad()
def turned(level: Tensor, offset: Tensor, ratio: float, before: Tensor | None = None) -> Tensor:
    """Unit phasors of partials, phases relative to each frame's middle. (B, F, T) complex

    level (B, F, T) is the log magnitude; offset (B, F, T) how far the partial at each frequency lies from it, in units of their
    distance; `ratio` the hop over the length of the transform; `before` (B, F) the phasors that the first frame goes on from.
    Each frequency goes on from the loudest one within its reach: a sum of them all would multiply the least difference
    in rounding, frame by frame, wherever they cancel.
    """
    b, f, t = level.shape
    if not f:
        return level
    whole = torch.arange(f, device=level.device) * ratio % 1     # a turn's share: whole ones change nothing, and cost digits
    advance = whole[:, None] + ratio * offset.float()            # (B, F, T) turns a frame
    _, loudest = F.max_pool1d(level.transpose(1, 2).contiguous(), 2 * REACH + 1, 1, REACH, return_indices=True)  # (B, T, F)
    steps = advance.transpose(1, 2).gather(2, loudest)           # (B, T, F)
    phase = advance.new_zeros(b, f) if before is None else before.angle() / (2 * math.pi)
    out = torch.empty_like(steps)
    for i in range(t):
        phase = out[:, i] = (phase.gather(1, loudest[:, i]) + steps[:, i]) % 1
    out = 2 * math.pi * out.transpose(1, 2)
    return torch.polar(torch.ones_like(out), out)


def closed(level: Tensor, offset: Tensor, ratio: float) -> Tensor:
    """The phasors of a loop, whose end meets its beginning: as `turned`, from the frame on in which the partials are quietest.

    What is missing to a whole turn is shared out among all frames: less than a hundredth of a hertz in a minute.
    """
    t = level.shape[-1]
    if not level.shape[1]:
        return level
    quietest = (2 * level).exp().sum(dim=1).argmin(dim=-1)       # (B,)
    at = (quietest[:, None] + torch.arange(t + 1, device=level.device)) % t            # (B, T + 1)
    at = at[:, None].expand(-1, level.shape[1], -1)
    phasors = turned(level.gather(2, at), offset.gather(2, at), ratio)
    missing = (phasors[..., -1] * phasors[..., 0].conj()).angle()[..., None]           # (B, F, 1)
    share = torch.arange(t, device=level.device) / t
    phasors = phasors[..., :-1] * torch.polar(torch.ones_like(missing), -missing * share)
    return torch.empty_like(phasors).scatter_(2, at[..., :-1], phasors)
