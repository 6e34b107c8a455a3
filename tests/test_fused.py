"""Group norms of the kernels for a GPU: their numbers and gradients, by Triton's interpreter where there is no GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import normal, relative
from torch import Tensor, nn

from audiogen.config import UNetConfig
from audiogen.diffusion.conditioning import Conditioning
from audiogen.models.layers import GroupNorm, LayerNorm, fused
from audiogen.models.unet import UNet

ROOT = Path(__file__).parents[1]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels for a GPU")
TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

# shape, groups, mean, dtype, SiLU: held whole and in splits; groups of 2, 3, 12, 20 and 30 channels
CASES = [((2, 64, 4, 4), 32, 0.0, torch.float32, True), ((2, 96, 5, 3), 8, 30.0, torch.float32, False),
         ((2, 120, 2, 4), 4, 0.0, torch.bfloat16, True), ((2, 640, 2, 8), 32, 0.0, torch.bfloat16, True),
         ((2, 80, 30, 20), 4, 30.0, torch.float32, True), ((1, 60, 33, 31), 2, 0.0, torch.bfloat16, False),
         ((3, 12, 1, 1), 4, 0.0, torch.float32, True), ((1, 16, 70, 60), 1, 1.0, torch.float16, True)]


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def expected(x: Tensor, groups: int, weight: Tensor, bias: Tensor, silu: bool, dy: Tensor, eps: float = 1e-5) -> list[Tensor]:
    """y and the gradients of x, weight and bias, in float64, with the channels first"""
    x, weight, bias = (t.detach().double().contiguous().requires_grad_() for t in (x, weight, bias))
    y = F.group_norm(x, groups, weight, bias, eps)
    y = F.silu(y) if silu else y
    return [y.detach(), *torch.autograd.grad(y, (x, weight, bias), dy.double())]


def check(device: str) -> None:
    """Every case on a device."""
    from audiogen.models.fused import fits, group_norm, tiling

    kinds = set()
    for shape, groups, mean, dtype, silu in CASES:
        x = last((normal(*shape) + mean + 0.01 * torch.arange(shape[1])[:, None, None]).to(device, dtype)).requires_grad_()
        weight, bias = (normal(shape[1], seed=i).to(device).requires_grad_() for i in (1, 2))
        dy = normal(*shape, seed=3).to(device, dtype)            # its channels lie first
        assert fits(x, groups)
        kinds.add(len(tiling(shape[0], shape[1], shape[2] * shape[3], groups).grid))
        y = group_norm(x, groups, weight, bias, 1e-5, silu)
        assert y.is_contiguous(memory_format=torch.channels_last)
        made = [y.detach(), *torch.autograd.grad(y, (x, weight, bias), dy)]
        assert [m.dtype for m in made] == [dtype, dtype, torch.float32, torch.float32]
        right, bounds = expected(x, groups, weight, bias, silu, dy), [1e-5] * 4
        if dtype != torch.float32:
            bounds[:2] = [4e-3] * 2                              # a result is rounded, once
        for value, true, bound in zip(made, right, bounds, strict=True):
            assert relative(value.cpu(), true.cpu()) < bound, (shape, groups, dtype)
        wrong = [expected(x, groups, weight, bias, silu, dy, eps=0.1)]
        if groups > 1:
            wrong.append(expected(x, groups // 2, weight, bias, silu, dy))
        for other in wrong:
            if y[0, 0].numel() > 1:
                assert relative(made[0].cpu(), other[0].cpu()) > 1e-2, "it can fail"
                assert relative(made[1].cpu(), other[1].cpu()) > 1e-2
        again = group_norm(x, groups, weight, bias, 1e-5, silu)
        assert all(map(torch.equal, made[1:], torch.autograd.grad(again, (x, weight, bias), dy))), "the same to the bit"
    assert kinds == {2, 3}, "held whole, and in splits"


@TRITON
def test_numbers_by_the_interpreter() -> None:
    code = "import test_fused; test_fused.check('cpu')"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT,
                   env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""})


@TRITON
def test_every_size_is_covered_once() -> None:
    from audiogen.models.fused import SPLITS, tiling

    for items, hw in [(1, 1), (1, 16), (2, 4096), (256, 256), (512, 65_536), (3, 1000), (32, 1100)]:
        for channels in (64, 128, 320, 384, 640, 768, 960, 1024, 1920, 2560):
            for groups in (1, 4, 32):
                grid, numbers, shape = tiling(items, channels, hw, groups)
                assert numbers[:3] == (hw, channels, groups)
                assert grid[1] == items
                assert grid[0] * shape["WIDTH"] == channels
                assert shape["WIDTH"] == numbers[3] * numbers[4] <= shape["W"]
                assert shape["P"] * shape["W"] <= 16_384
                assert all(shape[k] & (shape[k] - 1) == 0 for k in ("P", "W", "G"))
                if len(grid) == 2:
                    assert shape["P"] >= hw
                else:
                    each = shape["N"] * shape["P"]
                    assert (grid[2] - 1) * each < hw <= grid[2] * each, "no split is empty"
                    assert grid[2] <= shape["S"] <= SPLITS


def test_a_cpu_has_what_it_had() -> None:
    norm = GroupNorm(4, 32)
    nn.init.normal_(norm.weight)
    for x in (normal(2, 32, 8, 8), last(normal(2, 32, 8, 8)), normal(2, 32, 40)):
        assert torch.equal(norm(x), F.group_norm(x.contiguous(), 4, norm.weight, norm.bias))
        assert torch.equal(norm(x, silu=True), F.silu(norm(x)))
    layer, x = LayerNorm(32), normal(3, 32)
    assert torch.equal(layer(x), F.layer_norm(x, (32,), layer.weight, layer.bias))


def test_triton_is_imported_late() -> None:
    code = "import audiogen.models.unet, sys; print('triton' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "False"


def test_maps_stay_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every map that a norm of the U-Net gets on a GPU is one for the kernels."""
    config = UNetConfig(4, 4, (32, 64), (True, True), (2, 2), 1, transformers=(None, 0), context_dims=(12,), groups=8)
    unet = UNet(config).to(memory_format=torch.channels_last)    # type: ignore[call-overload]
    seen: list[bool] = []
    plain = GroupNorm.plain

    def watch(self: GroupNorm, x: Tensor) -> Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return last(plain(self, x))                              # as the kernels give it back

    monkeypatch.setattr(GroupNorm, "plain", watch)
    unet(last(normal(2, 4, 8, 6)), torch.ones(2), Conditioning((normal(2, 5, 12),), (None,)))
    assert len(seen) > 20
    assert all(seen)


@GPU
@TRITON
def test_numbers_on_a_gpu() -> None:
    check("cuda")


@GPU
@TRITON
@pytest.mark.parametrize("size", [(16, 8), (64, 32)])
def test_a_layer_under_autocast_and_from_a_graph(size: tuple[int, int]) -> None:
    norm = GroupNorm(32, 384).cuda()
    nn.init.normal_(norm.weight)
    x = last(normal(4, 384, *size).cuda().bfloat16()).requires_grad_()
    dy = last(normal(4, 384, *size, seed=1).cuda().bfloat16())
    assert fused(x, 32) is not None
    assert fused(x.contiguous(), 32) is None

    def work() -> list[Tensor]:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = norm(x, silu=True)
        return [y, *torch.autograd.grad(y, (x, norm.weight, norm.bias), dy)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = work()
    for seed in (5, 6):
        with torch.no_grad():
            x.copy_(normal(4, 384, *size, seed=seed))
        graph.replay()
        assert made[0].dtype == torch.bfloat16
        assert made[0].is_contiguous(memory_format=torch.channels_last)
        right = expected(x, 32, norm.weight, norm.bias, True, dy)
        for value, true, bound in zip(made, right, (4e-3, 4e-3, 1e-5, 1e-5), strict=True):
            assert relative(value.detach().cpu(), true.cpu()) < bound


@GPU
def test_layer_norms_under_autocast() -> None:
    layer, x = LayerNorm(384).cuda(), normal(4, 50, 384).cuda().bfloat16()
    nn.init.normal_(layer.weight)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    right = F.layer_norm(x.double(), (384,), layer.weight.double(), layer.bias.double())
    assert relative(y.detach().cpu(), right.detach().cpu()) < 1e-2
