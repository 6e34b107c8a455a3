"""What is freed is kept for the next tensor, and what is no longer needed of a file does not stay mapped."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audiogen.checkpoint import SMALL, TOGETHER, read_weights, save_weights

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
AGAIN = """
import resource, sys
import torch
from audiogen.memory import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
layers = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))).requires_grad_(False)
x = torch.randn(1, 8, 2048, 1024)
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator")
def test_a_network_runs_again_in_the_same_memory() -> None:
    def faults(how: str) -> int:                                 # pages that the system gave for a third run
        return int(subprocess.run([sys.executable, "-c", AGAIN, how], capture_output=True, text=True, check=True).stdout)

    returned = faults("return")
    assert returned > 50                                         # of three times 64 MB: 49152, or 96 large ones
    assert faults("keep") < returned / 4


@LINUX
def test_a_map_goes_with_its_last_large_tensor(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    large, small = torch.randn(SMALL + 1), torch.randn(8)
    save_weights(path, {f"{i}.{kind}": value.clone() for i in range(TOGETHER)
                        for kind, value in (("large", large), ("small", small))})

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(path))

    state = read_weights(path)
    assert mapped() == 2                                         # not copied
    for i in range(TOGETHER // 2):
        assert torch.equal(state.pop(f"{i}.large"), large)
    assert mapped() >= 1
    for key in [k for k in state if k.endswith("large")]:
        del state[key]
    assert mapped() == 0
    assert all(torch.equal(value, small) for value in state.values())
