"""What every stage is: networks, their optimizers, a step, a validation, and the weights that it leaves.

A stage owns its forward, backward and updates, so that adversarial stages need no trainer of their own. Shapes: B items.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiogen.config import ModelConfig
from audiogen.distributed import average_gradients, world
from audiogen.mel import Mel, to_image
from audiogen.models.packed import multiplies
from audiogen.train.config import AutoencoderStageConfig, StageConfig, VocoderStageConfig
from audiogen.train.convolution import hasten
from audiogen.train.examples import Examples
from audiogen.train.graphs import Graphs

Inputs = dict[str, Tensor]
Losses = dict[str, Tensor]
Weights = dict[str, dict[str, Tensor]]                           # file (without suffix) -> state dictionary


@dataclass(frozen=True)
class Machine:
    """Where a stage runs and in which numbers."""

    device: str
    dtype: torch.dtype

    @classmethod
    def of(cls, device: str, precision: str) -> "Machine":
        """"auto" is bfloat16 where the processor multiplies in it, else float32."""
        if precision == "auto":
            precision = "bfloat16" if multiplies(torch.bfloat16, device) else "float32"
        return cls(device, getattr(torch, precision))

    @property
    def records(self) -> bool:
        """Whether steps are recorded as a GPU's graphs: alone, and where no scale is looked at in between."""
        return self.device.startswith("cuda") and self.dtype != torch.float16 and world() == 1

    def autocast(self) -> AbstractContextManager[Any]:
        """Within, the products of networks are in the machine's numbers."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.split(":")[0], self.dtype)


class Stage(ABC):
    """Networks under training; the first of `modules` is what the stage is for, the others only help it."""

    name = ""
    graphs: Graphs | None = None                                 # from which a GPU plays whole steps
    helpers: tuple[str, ...] = ()                                # modules that no model keeps: no moving average of them

    def __init__(self, model: ModelConfig, config: StageConfig, machine: Machine, modules: dict[str, nn.Module]) -> None:
        self.model, self.machine = model, machine
        self.settings = config
        self.modules = {k: m.to(machine.device).train() for k, m in modules.items()}
        if machine.device == "cpu":
            for module in self.modules.values():
                hasten(module)
        self.optimizers = {k: self.optimizer(m.parameters()) for k, m in self.modules.items()}
        self.scaler = torch.amp.GradScaler(machine.device.split(":")[0], enabled=machine.dtype == torch.float16)
        self.mel = Mel(model.mel).to(machine.device)
        kept = {k: m for k, m in self.modules.items() if k not in self.helpers}
        self.average = {k: {n: t.detach().clone() for n, t in m.state_dict().items()} for k, m in kept.items()}
        self.updates = 0

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        c = self.settings
        open_ = [p for p in parameters if p.requires_grad]
        lr = c.lr if self.graphs is None else torch.tensor(c.lr, device=self.machine.device)
        return torch.optim.AdamW(open_, lr, c.betas, weight_decay=c.weight_decay, fused=True, capturable=self.graphs is not None)

    @abstractmethod
    def losses(self, examples: Examples) -> Losses:
        """Forward and backward of a part of a step; gradients add up. "loss" is what is told of it."""

    @abstractmethod
    def evaluate(self, examples: Examples) -> dict[str, float]:
        """Figures on held-out examples, by the averaged weights."""

    def weights(self) -> Weights:
        """What the model folder gets of this stage."""
        return {self.name: self.average[self.name]}

    def describe(self, config: ModelConfig) -> ModelConfig:
        """The model's configuration with what this stage measured."""
        return config

    def step(self, parts: Iterable[Callable[[], Examples]], lr: float) -> Losses:
        """One update of every network from a step's examples, taken in parts; the mean of the parts' losses.

        A GPU may still be at it.
        """
        parts = list(parts)
        for optimizer in self.optimizers.values():
            set_rate(optimizer, lr)
        told = self.taken(parts)
        self.updates += 1
        self._follow()
        return told

    def taken(self, parts: list[Callable[[], Examples]]) -> Losses:
        """A step from its parts."""
        told: Losses = {}
        for part in parts:
            for k, v in self.losses(part()).items():
                told[k] = told.get(k, 0.0) + v.detach() / len(parts)
        told["norm"] = self.update(len(parts))
        return told

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()                       # type: ignore[no-untyped-call]

    def update(self, parts: int) -> Tensor:
        """Clip and apply the gradients of `parts` parts; returns the main network's norm of the gradient."""
        norms = []
        for name, optimizer in self.optimizers.items():
            self.scaler.unscale_(optimizer)
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
            if parts > 1:
                for p in parameters:
                    if p.grad is not None:
                        p.grad /= parts
            if any(p.grad is not None for p in parameters):
                average_gradients(parameters)
                norms.append(nn.utils.clip_grad_norm_(parameters, self.settings.clip))
                self.scaler.step(optimizer)
            self.modules[name].zero_grad(set_to_none=True)
        self.scaler.update()
        return norms[0]

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averages towards the weights, faster at first."""
        keep = min(self.settings.ema, (1 + self.updates) / (10 + self.updates))
        for name, average in self.average.items():
            now = self.modules[name].state_dict()
            moving = [k for k, v in average.items() if v.is_floating_point()]
            torch._foreach_lerp_([average[k] for k in moving], [now[k] for k in moving], 1 - keep)
            for k in average.keys() - set(moving):
                average[k].copy_(now[k])

    def averaged(self, name: str) -> "Averaged":
        """Within, the network `name` has its averaged weights and is in evaluation mode."""
        return Averaged(self.modules[name], self.average[name])

    def image(self, wave: Tensor) -> Tensor:
        """Waves (B, S) -> the autoencoder's input (B, K, T, M), T and M multiples of its factor"""
        c = self.model.autoencoder
        image = to_image(self.mel(wave.to(self.machine.device)), self.model.mel, c.in_channels)
        height, width = (n - n % c.factor for n in image.shape[-2:])
        return image[..., :height, :width].contiguous()

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"modules": {k: m.state_dict() for k, m in self.modules.items()},
                "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
                "average": self.average, "updates": self.updates, "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; raises KeyError or RuntimeError where it is of another stage."""
        for k, m in self.modules.items():
            m.load_state_dict(state["modules"][k])
            self.optimizers[k].load_state_dict(state["optimizers"][k])
            for group in self.optimizers[k].param_groups:        # the save may be of another device
                group["capturable"] = self.graphs is not None
                lr = float(group["lr"])
                group["lr"] = lr if self.graphs is None else torch.tensor(lr, device=self.machine.device)
        self.average = {k: {n: t.to(self.machine.device) for n, t in d.items()} for k, d in state["average"].items()}
        self.updates = state["updates"]
        self.scaler.load_state_dict(state["scaler"])


class RecordedStage(Stage):
    """One whose steps a GPU plays from a graph.

    A step is split for that: `inputs` may decide and copy, and makes tensors that depend on nothing but the examples;
    `compute` only computes, and waits for no number.
    """

    def __init__(self, model: ModelConfig, config: StageConfig, machine: Machine, modules: dict[str, nn.Module]) -> None:
        self.graphs = Graphs(self.play) if machine.records and config.accumulate == 1 else None
        super().__init__(model, config, machine, modules)

    def inputs(self, examples: Examples) -> Inputs:
        """What `compute` needs of the examples, on the machine's device: waves (B, S) and keys (B,) of noise."""
        device = self.machine.device
        return {"wave": examples.wave.to(device, non_blocking=True), "keys": examples.keys(device)}

    @abstractmethod
    def compute(self, inputs: Inputs) -> Losses:
        """`losses`, from `inputs`."""

    def losses(self, examples: Examples) -> Losses:
        return self.compute(self.inputs(examples))

    @property
    def phase(self) -> str:
        """What `compute` does now, if it depends on how far the stage is."""
        return ""

    def taken(self, parts: list[Callable[[], Examples]]) -> Losses:
        if self.graphs is None:
            return super().taken(parts)
        return self.graphs(lambda: self.inputs(parts[0]()), self.phase)

    def play(self, inputs: Inputs) -> Losses:
        """A step from its inputs, all of it on the device."""
        told = {k: v.detach() for k, v in self.compute(inputs).items()}
        return {**told, "norm": self.update(1)}


class AdversarialStage(RecordedStage):
    """One whose output a judge learns to tell from recordings, from some step on."""

    helpers = ("judge",)
    config: AutoencoderStageConfig | VocoderStageConfig

    @property
    def phase(self) -> str:
        c = self.config
        return "contest" if c.adversarial and self.updates >= c.adversarial_from else ""


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate; one that a graph reads stays where it is."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


class Averaged:
    """A network with other weights for a while."""

    def __init__(self, module: nn.Module, weights: dict[str, Tensor]) -> None:
        self.module, self.weights = module, weights

    def __enter__(self) -> nn.Module:
        self.own = {k: v.clone() for k, v in self.module.state_dict().items()}
        self.module.load_state_dict(self.weights)
        return self.module.eval()

    def __exit__(self, *error: object) -> None:
        self.module.load_state_dict(self.own)
        self.module.train()
