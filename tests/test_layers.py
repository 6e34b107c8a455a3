"""Packed layers give the numbers of plain ones, whatever the size of the map, and what follows them is done as well."""

import copy

import pytest
import torch
from conftest import relative
from torch import nn

from audiogen.models import layers, winograd
from audiogen.models import packed as products
from audiogen.models.layers import GEGLU, Conv1d, Conv2d, ConvTranspose1d, GroupNorm, Linear, Pointwise, pack

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


def both(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A network and a packed copy of it."""
    torch.manual_seed(0)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    packed = copy.deepcopy(network)
    pack(packed)
    return network.eval().requires_grad_(False), packed.eval().requires_grad_(False)


@pytest.mark.parametrize("rows", [(3,), (2, 50), (1, 2049)])
@pytest.mark.parametrize("network", [Linear(24, 40), Linear(24, 24, bias=False), Pointwise(24, 24), GEGLU(24, 36)],
                         ids=["linear", "no bias", "pointwise", "geglu"])
@torch.inference_mode()
def test_packed_matrices(network: nn.Module, rows: tuple[int, ...]) -> None:
    plain, packed = both(network)
    x = torch.randn(*rows, 24)
    assert relative(packed(x), plain(x)) < 1e-5
    assert relative(packed(x * 1.001), plain(x)) > 1e-4                                  # it can fail
    if isinstance(network, Linear):
        plus = torch.randn_like(plain(x))
        assert relative(packed(x, plus), plain(x) + plus) < 1e-5
        assert relative(packed(x, plus), plain(x)) > 0.1


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
@torch.inference_mode()
def test_packed_convolutions(kernel: int, stride: int) -> None:
    plain, packed = both(Conv2d(16, 32, kernel, stride=stride, padding=kernel // 2))
    for shape in [(2, 16, 12, 8), (1, 16, 5, 3), (4, 16, 40, 8), (1, 16, 1, 1), (2, 16, 1, 7)]:    # packed for the first
        x = torch.randn(shape)
        expected = plain(x)
        plus = torch.randn_like(expected)
        assert relative(packed(x), expected) < 1e-5
        assert relative(packed(x, plus), expected + plus) < 1e-5
        assert relative(packed(x, plus), expected) > 0.1


@torch.inference_mode()
def test_packed_in_bfloat16() -> None:
    plain, packed = both(nn.Sequential(Linear(64, 64), GEGLU(64, 64)).to(torch.bfloat16))
    x = torch.randn(2, 30, 64, dtype=torch.bfloat16)
    exact = copy.deepcopy(plain).float()(x.float())
    assert relative(packed(x).float(), exact) < 1e-2
    assert relative(packed(x).float() * 1.05, exact) > 1e-2


@pytest.mark.parametrize("size", [(30, 21), (4, 64), (1, 130), (33, 16)])
@pytest.mark.parametrize("padding", [(1, 1), (0, 1), (1, 0)])
@pytest.mark.parametrize("quick", [True, False])
def test_winograd(size: tuple[int, int], padding: tuple[int, int], quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever library is quick here."""
    monkeypatch.setattr(products, "mkl", lambda: quick)
    torch.manual_seed(1)
    size = (max(size[0], 3 - 2 * padding[0]), size[1])
    x, weight, bias = torch.randn(2, 20, *size), torch.randn(24, 20, 3, 3), torch.randn(24)
    expected = nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    assert relative(winograd.convolve(x, winograd.transformed(weight), 24, bias, padding), expected) < 1e-5
    assert relative(winograd.convolve(x, winograd.transformed(weight.flip(2, 3)), 24, bias, padding), expected) > 0.1


@pytest.mark.parametrize("kernel", [1, 3, 7, 11])
@pytest.mark.parametrize("dilation", [1, 3, 5])
@pytest.mark.parametrize("length", [1, 7, 530])
@pytest.mark.parametrize("way", ["points, one library", "points, the other", "a map of one row"])
@torch.inference_mode()
def test_convolution_in_time(kernel: int, dilation: int, length: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "mkl", lambda: way == "points, one library")
    monkeypatch.setattr(winograd, "WIDE_IN_TIME", 20 * 24 + (way == "a map of one row"))
    plain, packed = both(Conv1d(20, 24, kernel, dilation, 0.1))
    x, plus = torch.randn(2, 20, length), torch.randn(2, 24, length)
    expected = copy.deepcopy(plain).double()(x.double())
    assert relative(packed(x, plus), expected + plus) < 1e-5
    assert packed(x).shape == expected.shape
    assert relative(packed(x), expected) < 1e-5
    assert relative(packed(x)[1:], packed(x[1:])) < 1e-6, "an item does not depend on its batch"
    assert (packed.points is None) == (way == "a map of one row")
    assert relative(packed(x.flip(2)), expected) > 0.1 or length == 1


@pytest.mark.parametrize(("kernel", "stride", "padding", "extra"), [(16, 5, 5, 0), (4, 2, 1, 0), (11, 4, 4, 1)])
@torch.inference_mode()
def test_transposed_convolution_in_time(kernel: int, stride: int, padding: int, extra: int) -> None:
    plain, packed = both(ConvTranspose1d(20, 12, kernel, stride, padding, extra, 0.1))
    x = torch.randn(2, 20, 37)
    assert relative(packed(x), plain(x)) < 1e-5
    assert relative(packed(layers.channels_last(x)), plain(x)) < 1e-5
    assert relative(packed(x.flip(2)), plain(x)) > 0.1


@pytest.mark.parametrize(("name", "widest", "quick"), [("Intel(R) Xeon(R)", "AVX512", True), ("AMD EPYC", "AVX512", False),
                                                       ("AMD EPYC", "AVX2", True), ("Intel(R) Core(TM)", "AVX2", True)])
def test_where_torchs_own_products_are_quick(name: str, widest: str, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: widest)
    assert products.mkl.__wrapped__() == quick


@pytest.mark.parametrize(("quick", "channels", "by_points"), [(True, 128, True), (True, 32, False), (False, 128, False),
                                                              (False, 320, True)])
@torch.inference_mode()
def test_wide_layers_go_by_winograd_and_narrow_ones_do_not(quick: bool, channels: int, by_points: bool,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Wider ones where small products are slow."""
    for module in (products, winograd):
        monkeypatch.setattr(module, "mkl", lambda: quick)
    plain, packed = both(Conv2d(channels, channels, 3, padding=1))
    x, plus = torch.randn(2, 2, channels, 40, 16)
    assert relative(packed(x, plus), plain(x) + plus) < 1e-5
    assert (packed.points is not None) == by_points
    alone = packed(x[1:], plus[1:])                              # an item does not depend on its batch
    assert relative(alone, packed(x, plus)[1:]) < 1e-6


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), ((3, 1), 1, (1, 0)), (3, 1, (0, 1))])
@pytest.mark.parametrize("groups", [1, 4])
@torch.inference_mode()
def test_convolution_of_small_maps(kernel: int, stride: int, padding: int, groups: int) -> None:
    """As one product, but where there are groups."""
    plain, packed = both(Conv2d(20, 24, kernel, stride, padding, groups=groups))
    x = torch.randn(2, 20, 9, 5)
    plus = torch.randn_like(plain(x))
    assert relative(packed(x, plus), plain(x) + plus) < 1e-5
    assert relative(packed(x.contiguous(memory_format=torch.channels_last)), plain(x)) < 1e-5
    assert relative(packed(x.flip(2)), plain(x)) > 0.1
    assert (packed.matrix is not None) == (groups == 1)


@pytest.mark.parametrize("size", [(2, 3), (16, 8), (40, 32)])
@torch.inference_mode()
def test_group_norm_by_either_layout(size: tuple[int, int]) -> None:
    norm, x = GroupNorm(4, 16), torch.randn(2, 16, *size)
    last = norm(x.contiguous(memory_format=torch.channels_last))
    assert relative(last, norm(x)) < 1e-6
    assert last.is_contiguous(memory_format=torch.channels_last)
