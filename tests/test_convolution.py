"""The quicker ways to learn a convolution give the same outputs and the same gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import relative
from torch import Tensor, nn

from audiogen.models.compact import CompactAutoencoder
from audiogen.models.layers import Conv2d
from audiogen.train import convolution
from audiogen.train.autoencoder import AutoencoderStage
from audiogen.train.config import everyday
from audiogen.train.convolution import ByPoints, ByProduct, cut, hasten, joined
from audiogen.train.stage import Machine


def gradients(network: nn.Module, x: Tensor, target: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    (network(x) * target).sum().backward()
    return [x.grad, *(p.grad for p in network.parameters())]     # type: ignore[list-item]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the quicker ways that were gone, in order."""
    seen: list[str] = []

    def told(way: type[torch.autograd.Function]) -> None:
        apply = way.apply
        monkeypatch.setattr(way, "apply", lambda *given: seen.append(way.__name__) or apply(*given))

    for way in (ByPoints, ByProduct):
        told(way)
    return seen


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize(("size", "channels", "way"), [
    ((5, 3), 8, "ByProduct"), ((1, 1), 8, "ByProduct"), ((16, 8), 8, ""), ((16, 16), 64, "ByPoints"), ((18, 15), 64, "ByPoints"),
    ((50, 2), 64, "ByPoints"), ((2, 63), 64, "ByPoints")])
def test_gradients(size: tuple[int, int], channels: int, way: str, last: bool, ways: list[str]) -> None:
    torch.manual_seed(0)
    wide = channels + 4
    plain = nn.Sequential(Conv2d(channels, wide, 3, padding=1), nn.SiLU(), Conv2d(wide, wide, 3, padding=1), Conv2d(wide, 4, 1))
    plain = plain.to(memory_format=torch.channels_last) if last else plain
    quick = copy.deepcopy(plain)
    hasten(quick)
    x, target = torch.randn(2, channels, *size), torch.randn(2, 4, *size)
    expected, found = gradients(plain, x, target), gradients(quick, x, target)
    assert ways == [way] * (2 if way else 0)
    assert max(relative(a, b) for a, b in zip(found, expected, strict=True)) < 1e-5
    assert relative(found[0], gradients(quick, x, target.flip(0))[0]) > 0.1


@pytest.mark.parametrize("size", [(4, 4), (9, 5), (16, 2), (1, 7), (2, 2)])
def test_points(size: tuple[int, int]) -> None:
    """Maps that fill their tiles and maps that do not, whatever pays."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, *size), torch.randn(5, 3, 3, 3), torch.randn(5)
    given, again = ([t.clone().requires_grad_() for t in (x, weight, bias)] for _ in range(2))
    y, expected = ByPoints.apply(*given), F.conv2d(*again, padding=1)
    assert relative(y.detach(), expected.detach()) < 1e-5
    assert relative(ByPoints.apply(x, weight, -bias), expected.detach()) > 0.1
    grad = torch.randn_like(y)
    pairs = list(zip(torch.autograd.grad(y, given, grad), torch.autograd.grad(expected, again, grad), strict=True))
    assert max(relative(a, b) for a, b in pairs) < 1e-5


def test_a_whole_network_learns_the_same(ways: list[str]) -> None:
    """The default model's autoencoder, as its stage trains it: all but one of its kinds of layers go by points."""
    torch.manual_seed(0)
    config = everyday()
    net = CompactAutoencoder(config.model.autoencoder)
    x = torch.randn(2, 1, 64, 64)
    net.decode(net.encode(x).mean).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    assert not ways
    stage = AutoencoderStage(config.model, config.autoencoder, Machine("cpu", torch.float32), net)
    net.zero_grad()
    net.decode(net.encode(x).mean).square().mean().backward()
    assert set(ways) == {"ByPoints", "ByProduct"}
    assert stage.modules["autoencoder"] is net
    assert max(relative(p.grad, expected[name]) for name, p in net.named_parameters()) < 1e-4


@pytest.mark.parametrize(("s", "t"), [(4, 4), (4, 2), (2, 2)])
def test_to_join_is_to_cut_the_other_way(s: int, t: int) -> None:
    """<cut x, y> = <x, join y>"""
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 3 * s, 2 * t, dtype=torch.float64), torch.randn(2, 3, 2, s + 2, t + 2, 3, dtype=torch.float64)
    there, back = (cut(x, 3, 2, s, t).view_as(y) * y).sum(), (x.permute(0, 2, 3, 1) * joined(y)).sum()
    assert float(there) == pytest.approx(float(back), rel=1e-12)


def test_an_input_that_does_not_learn_gets_no_gradient(ways: list[str]) -> None:
    layer, x = Conv2d(64, 64, 3, padding=1), torch.randn(2, 64, 16, 16)
    hasten(layer)
    layer(x).sum().backward()
    assert ways == ["ByPoints"]
    assert x.grad is None
    assert layer.weight.grad is not None


def test_each_way_adds(ways: list[str]) -> None:
    layer = Conv2d(64, 64, 3, padding=1)
    hasten(layer)
    for size in (3, 20):
        x, plus = torch.randn(2, 1, 64, size, size)
        expected = F.conv2d(x, layer.weight, layer.bias, padding=1) + plus
        assert relative(layer(x, plus).detach(), expected.detach()) < 1e-5
    assert ways == ["ByProduct", "ByPoints"]


def test_bfloat16_by_autocast(ways: list[str]) -> None:
    torch.manual_seed(1)
    layer, x = Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 21, 21)
    assert convolution.pays(layer.weight, x.shape)
    expected = gradients(layer, x, torch.ones(1))
    layer.zero_grad()
    hasten(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        found = gradients(layer, x, torch.ones(1))
    assert ways == ["ByProduct"] * 2                             # points would round too much away
    assert all(g.dtype == torch.float32 for g in found)
    assert max(relative(a, b) for a, b in zip(found, expected, strict=True)) < 2e-2
