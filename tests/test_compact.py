"""The compact autoencoder: shapes, its latents' framing in time, and that it learns."""

import pytest
import torch

from audiogen.config import AutoencoderConfig
from audiogen.models.compact import CompactAutoencoder

CONFIG = AutoencoderConfig(kind="compact", latent_channels=4, channels=(8, 16, 16, 8), layers=1, groups=4)


@pytest.fixture(scope="module")
def net() -> CompactAutoencoder:
    torch.manual_seed(0)
    return CompactAutoencoder(CONFIG).eval()


def test_latents_are_eight_times_shorter_and_lower(net: CompactAutoencoder) -> None:
    x = torch.randn(2, 1, 48, 64)
    code = net.encode(x)
    assert code.mean.shape == code.logvar.shape == (2, 4, 6, 8)
    assert net.decode(code.mean).shape == x.shape
    assert CONFIG.factor == 8


def test_a_latent_frame_stands_for_its_eight_mel_frames() -> None:
    torch.manual_seed(0)
    conv = CompactAutoencoder(CONFIG).double()
    for m in conv.modules():                                     # norms look at the whole clip: leave them out here
        if isinstance(m, torch.nn.GroupNorm):
            m.forward = lambda x, silu=False: torch.nn.functional.silu(x) if silu else x   # type: ignore[method-assign, assignment]
    z = torch.zeros(1, 4, 24, 8, dtype=torch.float64)
    moved = z.clone()
    moved[:, :, 12] = 1
    with torch.no_grad():
        change = (conv.decode(moved) - conv.decode(z)).abs().sum(dim=(0, 1, 3))        # (T,)
    middle = float((change * torch.arange(192)).sum() / change.sum())
    assert abs(middle - (12 * 8 + 3.5)) < 4, middle


def test_it_learns_one_image() -> None:
    torch.manual_seed(0)
    net = CompactAutoencoder(CONFIG)
    x = torch.linspace(-1, 1, 64).expand(1, 1, 32, 64).contiguous()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)

    def loss() -> torch.Tensor:
        return (net.decode(net.encode(x).mean) - x).square().mean()

    first = float(loss().detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < 0.2 * first
