"""The training loop of every stage: batches, rate, log, validation, saves; stops and failures that lose nothing."""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from audiogen.checkpoint import read_model_config, save_config, save_weights
from audiogen.distributed import largest, rank, share, wait
from audiogen.errors import AudiogenError
from audiogen.train import state as states
from audiogen.train.ahead import Draws, Key, ahead, workers
from audiogen.train.config import StageConfig, TrainConfig
from audiogen.train.stage import Losses, Stage

HELD = 16                                                        # examples of a validation


@dataclass(frozen=True)
class Told:
    """Where a stage is."""

    stage: str
    step: int
    steps: int
    figures: dict[str, float]                                    # losses since the last word, or of a validation
    left: float                                                  # seconds, at the present pace


class Stopped(AudiogenError):
    """Someone asked for an end; all is saved."""


def train(stage: Stage, draws: Draws, held: Draws | None, config: TrainConfig, run: Path, *, resume: bool = False,
          watch: Callable[[Told], None] = lambda told: None, sample: Callable[[int], None] | None = None) -> None:
    """Train `stage` to its end, in the folder `run`.

    Raises Stopped after Ctrl-C or SIGTERM, and AudiogenError for a loss that is not a number or a disk that is full.
    """
    Loop(stage, draws, held, config, run, watch, sample).go(resume)


class Loop:
    """A stage on its way: how far it is, how long it took, what was saved."""

    def __init__(self, stage: Stage, draws: Draws, held: Draws | None, config: TrainConfig, run: Path,
                 watch: Callable[[Told], None], sample: Callable[[int], None] | None) -> None:
        self.stage, self.draws, self.held, self.config, self.run = stage, draws, held, config, run
        self.watch, self.sample = watch, sample
        self.settings: StageConfig = config.stage(stage.name)
        self.step, self.spent, self.saved = 0, 0.0, -1           # steps done, seconds taken, step of the last save
        self.untold: list[tuple[int, Losses]] = []               # of the latest steps, which a GPU may still be at
        self.sums: dict[str, float] = {}                         # of losses, since the last word
        self.heard = 0                                           # ... over so many steps

    def go(self, resume: bool) -> None:
        c = self.settings
        if resume and (known := states.load(self.run, self.stage.name)) is not None:
            try:
                self.stage.restore(known["stage"])
            except (KeyError, RuntimeError, ValueError):
                raise AudiogenError(f"The save of the {self.stage.name} in {self.run} is of other networks than these settings "
                                    "describe; resume with the run's own settings.") from None
            self.step, self.spent, self.saved = known["step"], known["spent"], known["step"]
        log = Log(self.run, self.stage.name, self.step)
        last_save = before = time.monotonic()
        device = self.stage.machine.device
        keys = chain.from_iterable(map(self.parts, count(self.step)))
        with asked_to_stop() as asked, ahead(self.draws, keys, workers(self.config.workers, device), device) as batches:
            while not self.finished():
                told = self.stage.step([partial(next, batches)] * len(self.parts(self.step)), self.rate())
                self.step += 1
                self.untold.append((self.step, told))
                self.hear(1 if device.startswith("cuda") else 0)
                now = time.monotonic()
                (self.spent,), before = largest(self.spent + now - before), now
                if self.step % self.config.log_every == 0:
                    self.hear()
                    self.tell(log, {k: v / self.heard for k, v in self.sums.items()})
                    self.sums, self.heard = {}, 0
                if self.held is not None and self.step % self.config.validate_every == 0:
                    figures = self.stage.evaluate(self.held.batch(0, range(HELD), c.seconds))
                    self.tell(log, {f"held_out_{k}": v for k, v in figures.items()})
                unsaved, stopped = largest(now - last_save, bool(asked))
                due = self.step % self.config.save_every == 0 or unsaved > 60 * self.config.save_minutes
                if stopped:
                    self.save()
                    raise Stopped(f"Stopped at step {self.step} of the {self.stage.name}; all is saved in {self.run}: "
                                  "go on with --resume.")
                if due:
                    self.save()
                    last_save = time.monotonic()
                if self.sample is not None and self.config.sample_every and self.step % self.config.sample_every == 0:
                    if self.saved != self.step:
                        self.save()
                    if rank() == 0:
                        self.sample(self.step)
                    wait()
        if self.saved != self.step:
            self.save()

    def hear(self, left: int = 0) -> None:
        """Add up the losses of all but the `left` latest steps; raises AudiogenError for one that is not a number."""
        while len(self.untold) > left:
            step, told = self.untold.pop(0)
            figures = dict(zip(told, torch.stack([v.float() for v in told.values()]).tolist(), strict=True))
            if not math.isfinite(figures["loss"]):
                raise AudiogenError(
                    f"The loss of the {self.stage.name} is not a number at step {step}; {self.last()}: "
                    f"lower {self.stage.name}.lr (now {self.settings.lr:g}) or use --set precision=float32, and --resume.")
            self.heard += 1
            for k, v in figures.items():
                self.sums[k] = self.sums.get(k, 0.0) + v

    def parts(self, step: int) -> list[Key]:
        """What each part of this process's share of a step is drawn from."""
        c = self.settings
        long = getattr(c, "long", 0.0)
        twice = bool(long) and (step * long) % 1 + long >= 1     # these steps come at even distances
        batch, seconds = (c.batch // 2, 2 * c.seconds) if twice else (c.batch, c.seconds)
        mine = share(max(batch, c.accumulate))
        each = max(1, len(mine) // c.accumulate)
        return [(step, mine[i : i + each], seconds) for i in range(0, len(mine), each)]

    def finished(self) -> bool:
        over = self.settings.minutes is not None and self.spent >= 60 * self.settings.minutes
        return over or self.step >= self.settings.steps

    def progress(self) -> float:
        """Share of the stage that is done, in steps or in time."""
        c = self.settings
        return max(self.step / c.steps, self.spent / (60 * c.minutes) if c.minutes else 0.0)

    def rate(self) -> float:
        """The learning rate of the next step: a short rise, then level, then down to nearly 0."""
        c = self.settings
        rise = min(1.0, (self.step + 1) / max(c.warmup, 1))
        fall = min(1.0, (1 - self.progress()) / c.decay) if c.decay else 1.0
        return c.lr * rise * max(fall, 0.01)

    def tell(self, log: "Log", figures: dict[str, float]) -> None:
        left = self.spent / max(self.progress(), 1e-9) * max(0.0, 1 - self.progress())
        if rank() == 0:
            log.write(self.step, figures | {"lr": self.rate(), "seconds": self.spent})
            self.watch(Told(self.stage.name, self.step, self.settings.steps, figures, left))

    def save(self) -> None:
        """The state, then the model's weights: whatever happens between, the state is whole."""
        self.hear()
        if rank() == 0:
            try:
                states.save(self.run, self.stage.name, self.step,
                            {"stage": self.stage.state(), "step": self.step, "spent": self.spent})
                for name, weights in self.stage.weights().items():
                    save_weights(self.run / f"{name}.safetensors", weights)
                save_config(self.run, self.stage.describe(read_model_config(self.run)))
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise AudiogenError(
                    f"{self.run} cannot be written to ({reason}); {self.last()}: make room and --resume.") from None
        self.saved = self.step
        wait()

    def last(self) -> str:
        return f"the last good save is step {self.saved}" if self.saved >= 0 else "nothing was saved yet"


class Log:
    """RUN/log.jsonl, a line each time; and TensorBoard's events where it is installed."""

    def __init__(self, run: Path, stage: str, step: int) -> None:
        self.path, self.stage = run / "log.jsonl", stage
        self.board: Any = None
        if rank() != 0:
            return
        if self.path.exists():                                   # what came after the save that a resumed run starts from
            lines = [x for x in self.path.read_text(encoding="utf-8").splitlines() if x.strip()]
            kept = [x for x in lines if not (stage == (row := json.loads(x))["stage"] and row["step"] > step)]
            self.path.write_text("".join(x + "\n" for x in kept), encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"))
        except ImportError:
            pass

    def write(self, step: int, figures: dict[str, float]) -> None:
        rounded = {k: float(f"{v:.6g}") for k, v in figures.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage, "step": step, **rounded}) + "\n")
        if self.board is not None:
            for k, v in figures.items():
                self.board.add_scalar(f"{self.stage}/{k}", v, step)
            self.board.flush()


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Within, the first Ctrl-C or SIGTERM only fills the list that is yielded; the second one interrupts at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:                                           # not the main thread: someone else listens
        old = {}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
