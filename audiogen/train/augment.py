"""Changes that leave what a sound is: parts of its mel hidden, its colour another; who hears them learns less by heart.

Shapes: B items, T mel frames, M bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.train.examples import normal, uniform

BLOCKS = 2                                                       # of frames, and as many of bins, that are hidden
BENDS = 6                                                        # places where a filter's gain is drawn; straight lines between


def hidden(image: Tensor, keys: Tensor, share: float, floor: float) -> Tensor:
    """Silence over blocks of neighbouring frames and of bins, each at most this share (SpecAugment: Park et al. 2019).

    image (B, 1, T, M), scaled log-mels whose silence is `floor`; keys (B,) decide. (B, 1, T, M)
    """
    dice = uniform(keys, 2, BLOCKS, 2, salt=5)                   # (B, axes, blocks, width and place)
    for axis, n in enumerate(image.shape[2:]):
        width = dice[:, axis, :, 0] * share * n                  # (B, blocks)
        start = dice[:, axis, :, 1] * (n - width)
        at = torch.arange(n, device=image.device)
        hit = ((at >= start[..., None]) & (at < (start + width)[..., None])).any(dim=1)              # (B, n)
        image = image.masked_fill(hit[:, None, :, None] if axis == 0 else hit[:, None, None, :], floor)
    return image


def coloured(image: Tensor, keys: Tensor, strength: float, floor: float) -> Tensor:
    """As by another microphone in another room: a smooth random gain over the bins, of this standard deviation at its bends.

    image (B, 1, T, M), scaled log-mels whose silence is `floor`; keys (B,) decide; `strength` in the image's units. (B, 1, T, M)
    """
    gain = F.interpolate(normal(keys, 1, BENDS, salt=6), size=image.shape[3], mode="linear", align_corners=True)    # (B, 1, M)
    return (image + strength * gain[:, :, None].to(image.dtype)).clamp(min=floor)
