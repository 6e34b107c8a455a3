"""What the tests share: the tiny checkpoints of tests/checkpoints, the pipelines loaded from them, and the command.

The checkpoints have random weights in the published layouts. NAME.json lists cases (prompt, seed, steps, ...) and NAME.npz
what the public pipelines made of them: waves (samples,) float32 at 16 kHz.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"                              # as in the commands that tests start: the bits depend on it

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from audiogen.checkpoint import load_model
from audiogen.cli import main
from audiogen.pipeline import Pipeline

CHECKPOINTS = Path(__file__).parent / "checkpoints"
SCRIPTS = Path(__file__).parent.parent / "scripts"
TINY = ("audioldm-tiny", "audioldm2-tiny", "auffusion-tiny", "musicldm-tiny", "audioldm2-speech-tiny")


def relative(a: Any, b: Any) -> float:
    """Norm of the difference over the norm of the reference b."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    return float((a - b).norm() / b.norm())


def redraw(module: nn.Module, seed: int = 0, std: float = 0.05) -> nn.Module:
    """New random weights everywhere, so that no path is dead: not zeros, not ones, no two layers alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            draw = std * torch.randn(p.shape, generator=generator)
            p.copy_(draw if p.ndim > 1 else p + draw)
    return module.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same ones whenever they are asked for."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def tiny(name: str) -> Pipeline:
    """The pipeline of a tiny checkpoint, on the CPU in float32, loaded once."""
    return Pipeline(load_model(CHECKPOINTS / name), "cpu", torch.float32)


@pytest.fixture(scope="session")
def load() -> Callable[[str], Pipeline]:
    """The pipelines of the tiny checkpoints, by name."""
    return tiny


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sentence encoder with random weights."""
    from sentences import sentence_encoder

    return sentence_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 24 short clips, for training; to be read only."""
    from clips import folder

    return folder(tmp_path_factory.mktemp("data") / "clips", 24)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """The command in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["audiogen", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err
    return call


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Loads scripts/NAME.py as a module; afterwards nothing of it is left where modules are looked for."""
    path, modules = list(sys.path), set(sys.modules)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        if spec is None or spec.loader is None or not (SCRIPTS / f"{name}.py").exists():
            pytest.skip("the scripts are missing")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)      # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    yield load
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == SCRIPTS:
            del sys.modules[name]


def cases(name: str) -> list[dict[str, Any]]:
    """The recorded cases of a checkpoint."""
    return json.loads((CHECKPOINTS / f"{name}.json").read_text())


def recorded(name: str, case: int) -> np.ndarray:
    """The wave (S,) that the public pipeline made of a case."""
    with np.load(CHECKPOINTS / f"{name}.npz") as waves:
        return waves[f"case{case}"]
