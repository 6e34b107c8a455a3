"""The quicker gradients of convolutions are the same gradients."""

import copy

import pytest
import torch
from conftest import relative
from torch import Tensor, nn

from audiogen.models.layers import Conv2d
from audiogen.train.convolution import Convolution, hasten


def gradients(network: nn.Module, x: Tensor, target: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    (network(x) * target).sum().backward()
    return [x.grad, *(p.grad for p in network.parameters())]     # type: ignore[list-item]


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("size", [(5, 3), (1, 1), (16, 8)])      # the last has too many positions: it stays as it was
def test_gradients(size: tuple[int, int], last: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(Conv2d(8, 12, 3, padding=1), nn.SiLU(), Conv2d(12, 12, 3, padding=1), Conv2d(12, 4, 1))
    plain = plain.to(memory_format=torch.channels_last) if last else plain
    quick = copy.deepcopy(plain)
    hasten(quick)
    x, target = torch.randn(2, 8, *size), torch.randn(2, 4, *size)
    expected, found = gradients(plain, x, target), gradients(quick, x, target)
    assert max(relative(a, b) for a, b in zip(found, expected, strict=True)) < 1e-5
    assert relative(found[0], gradients(quick, x, target.flip(0))[0]) > 0.1


def test_small_maps_take_the_quick_way_and_add(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    apply = Convolution.apply
    monkeypatch.setattr(Convolution, "apply", lambda *given: seen.append(given[0].shape) or apply(*given))
    layer = Conv2d(8, 8, 3, padding=1)
    hasten(layer)
    for size in (3, 40):
        x, plus = torch.randn(2, 1, 8, size, size)
        expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1) + plus
        assert relative(layer(x, plus).detach(), expected.detach()) < 1e-5
    assert seen == [(1, 8, 3, 3)]


def test_bfloat16_by_autocast() -> None:
    torch.manual_seed(1)
    layer, x = Conv2d(16, 16, 3, padding=1), torch.randn(1, 16, 4, 4)
    expected = gradients(layer, x, torch.ones(1))
    layer.zero_grad()
    hasten(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        found = gradients(layer, x, torch.ones(1))
    assert all(g.dtype == torch.float32 for g in found)
    assert max(relative(a, b) for a, b in zip(found, expected, strict=True)) < 2e-2
