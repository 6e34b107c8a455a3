"""Phases of partials that go on from frame to frame, as a tone's do.

A network that looks at a steady mel says the same at each frame, so phases of its own can only belong to tones that repeat
with the hop; every other tone would be made of narrow noise, and waver. Here the network says how loud a partial is and at which
frequency, and the phase turns by that: each frame's goes on from the last one's, those around a peak together with it (as
in the phase-locked vocoder of Laroche and Dolson 1999). Shapes: B items, F frequencies, T frames.
"""

import math

import torch
from torch import Tensor

REACH = 2                                                        # frequencies at either side that turn with the loudest of them
FLOOR = 12.0                                                     # nats under a frame's loudest, below which all count alike


@torch.no_grad()
def turned(level: Tensor, offset: Tensor, ratio: float, before: Tensor | None = None) -> Tensor:
    """Unit phasors of partials, phases relative to each frame's middle. (B, F, T) complex

    level (B, F, T) is the log magnitude; offset (B, F, T) how far the partial at each frequency lies from it, in units of their
    distance; `ratio` the hop over the length of the transform; `before` (B, F) the phasors that the first frame goes on from.
    """
    b, f, t = level.shape
    if not f:
        return level
    place = torch.arange(f, device=level.device)
    advance = 2 * math.pi * ratio * (place[:, None] + offset)    # (B, F, T) radians a frame
    weight = (4 * (level - level.amax(dim=1, keepdim=True)).clamp(min=-FLOOR)).exp()
    steps = torch.polar(weight, advance).permute(2, 0, 1).contiguous()                 # (T, B, F)
    near = ((place[:, None] - place).abs() <= REACH).to(steps.dtype)                   # (F, F)
    phasor = torch.ones(b, f, dtype=steps.dtype, device=level.device) if before is None else before
    out = torch.empty_like(steps)
    for i in range(t):
        total = (phasor * steps[i]) @ near
        phasor = out[i] = total / total.abs().clamp(min=1e-30)
    return out.permute(1, 2, 0)


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
