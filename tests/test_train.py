"""Training: every stage learns and resumes to the bit, two processes equal one, and failures lose nothing."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CHECKPOINTS

from audiogen.checkpoint import load_model, read_weights
from audiogen.config import DefaultsConfig
from audiogen.errors import AudiogenError, ConfigError
from audiogen.pipeline import Pipeline
from audiogen.train import state
from audiogen.train.config import STAGES, TrainConfig, read_config, to_toml
from audiogen.train.loop import Stopped, Told
from audiogen.train.session import Session, run
from audiogen.train.stage import Stage

SMALL = ["model.unet.channels=[16,32]", "model.unet.groups=8", "model.vocoder.channels=32", "clap.width=32", "clap.layers=1",
         "clap.embedding=64", "clap.channels=[16,32]", "clap.vocabulary=300", "model.autoencoder.channels=[8,16,16,8]",
         "autoencoder.adversarial=0.1",
         "vocoder.decoded=0.5", "precision=float32", "log_every=1", "validate_every=4", "save_every=3", "data.mix=0.2",
         *(f"{s}.{k}" for s in STAGES for k in ("batch=4", "steps=6", "warmup=2")), "vocoder.adversarial_from=2",
         "vocoder.resolutions=[256]", "vocoder.periods=[2]", *(f"{s}.seconds=0.32" for s in STAGES), "diffusion.long=0.3"]
TOWERS = tuple(s for s in STAGES if s != "wording")             # wordings are for a sentence encoder: test_wording.py


def settings(*more: str) -> TrainConfig:
    return read_config("tiny", None, [*SMALL, *more])


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every stage."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(Session(data, out, TOWERS), settings())
    return out


def rows(out: Path, stage: str) -> list[dict[str, float]]:
    lines = [json.loads(x) for x in (out / "log.jsonl").read_text().splitlines()]
    return [x for x in lines if x["stage"] == stage]


def weights(out: Path) -> dict[str, torch.Tensor]:
    names = ("autoencoder", "vocoder", "unet", "clap", "text/text_encoder/model")
    there = [n for n in names if (out / f"{n}.safetensors").exists()]
    return {f"{n}:{k}": v for n in there for k, v in read_weights(out / f"{n}.safetensors").items()}


def test_a_run_is_a_model(whole: Path) -> None:
    model = load_model(whole)
    assert model.config.autoencoder.scale != 1.0, "measured"
    short = replace(model.config, defaults=DefaultsConfig(steps=2, guidance=2.0, duration=0.5))
    model.config = short
    made = Pipeline(model, "cpu", torch.float32).generate(["a tone", "noise"])
    assert made.audio.shape == (2, 8000)
    assert bool(torch.isfinite(made.audio).all())


def test_every_stage_is_logged_and_validated(whole: Path) -> None:
    for stage in TOWERS:
        found = rows(whole, stage)
        assert [x["step"] for x in found if "loss" in x] == [1, 2, 3, 4, 5, 6], stage
        assert any(k.startswith("held_out_") for x in found for k in x), stage
    assert {"judge", "fool", "features"} <= rows(whole, "vocoder")[-1].keys()
    assert [p.name for p in state.saves(whole, "vocoder")] == ["vocoder-000000003", "vocoder-000000006"]


@pytest.mark.parametrize("stage", TOWERS)
def test_resumed_equals_undisturbed_to_the_bit(whole: Path, data: Path, tmp_path: Path, stage: str,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    before = TOWERS[: TOWERS.index(stage)]
    run(Session(data, out, before), settings())
    update = Stage.update
    calls = []

    def stumble(self: Stage, parts: int) -> torch.Tensor:
        calls.append(self.name)
        if len(calls) == 5:                                      # between two saves: two steps are lost
            raise MemoryError
        return update(self, parts)

    monkeypatch.setattr(Stage, "update", stumble)
    with pytest.raises(MemoryError):
        run(Session(data, out, (stage,)), settings())
    monkeypatch.setattr(Stage, "update", update)
    assert [p.name[-1] for p in state.saves(out, stage)] == ["3"]
    run(Session(data, out, (stage,), resume=True), settings())
    ours, theirs = state.load(out, stage), state.load(whole, stage)
    assert ours is not None
    assert theirs is not None
    assert_same(ours["stage"], theirs["stage"])
    assert [x["loss"] for x in rows(out, stage) if "loss" in x] == [x["loss"] for x in rows(whole, stage) if "loss" in x]


def test_a_resumed_run_tells_the_mean_of_its_own_steps(whole: Path, data: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    out, update = tmp_path / "run", Stage.update

    def stumble(self: Stage, parts: int) -> torch.Tensor:
        if self.updates == 4:
            raise MemoryError
        return update(self, parts)

    monkeypatch.setattr(Stage, "update", stumble)
    with pytest.raises(MemoryError):
        run(Session(data, out, ("autoencoder",)), settings("log_every=6"))
    monkeypatch.setattr(Stage, "update", update)
    run(Session(data, out, ("autoencoder",), resume=True), settings("log_every=6"))
    each = [x["loss"] for x in rows(whole, "autoencoder") if "loss" in x]
    told = [x["loss"] for x in rows(out, "autoencoder") if "loss" in x]
    assert told == [pytest.approx(sum(each[3:]) / 3, rel=1e-5)], "those after the save"


def assert_same(a: object, b: object, where: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys(), where
        for k in a:
            assert_same(a[k], b[k], f"{where}.{k}")
    elif isinstance(a, list | tuple):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):      # type: ignore[call-overload]
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def test_another_seed_is_another_run(whole: Path, data: Path, tmp_path: Path) -> None:
    run(Session(data, tmp_path / "run", ("autoencoder",)), settings("seed=1"))
    assert rows(tmp_path / "run", "autoencoder")[-1]["loss"] != rows(whole, "autoencoder")[-1]["loss"]


def test_accumulated_parts_equal_one_batch(whole: Path, data: Path, tmp_path: Path) -> None:
    run(Session(data, tmp_path / "run", ("autoencoder",)), settings("autoencoder.accumulate=2", "autoencoder.adversarial=0.0"))
    run(Session(data, tmp_path / "one", ("autoencoder",)), settings("autoencoder.adversarial=0.0"))
    parts, one = (rows(tmp_path / n, "autoencoder")[-1]["l1"] for n in ("run", "one"))
    assert parts == pytest.approx(one, rel=1e-3)


SCRIPT = """
import sys
from pathlib import Path
from audiogen.train.config import read_config
from audiogen.train.session import Session, run
data, out, stage, *changes = sys.argv[1:]
run(Session(Path(data), Path(out), (stage,)), read_config("tiny", None, changes))
"""


def in_two(tmp_path: Path, data: Path, stage: str, changes: list[str], script: str = SCRIPT) -> Path:
    """The run that two processes made of a stage."""
    out = tmp_path / "two"
    (tmp_path / "main.py").write_text(script)
    command = [sys.executable, str(tmp_path / "main.py"), str(data), str(out), stage, *changes]
    port = str(20_000 + os.getpid() % 20_000)
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
           "PYTHONPATH": os.pathsep.join(sys.path)}
    pair = [subprocess.Popen(command, env={**env, "RANK": str(r)}, stderr=subprocess.PIPE, text=True) for r in range(2)]
    errors = [p.communicate(timeout=240)[1] for p in pair]
    assert [p.returncode for p in pair] == [0, 0], errors
    return out


@pytest.mark.parametrize("stage", ["autoencoder", "clap"])
def test_two_processes_equal_one(data: Path, tmp_path: Path, stage: str) -> None:
    changes = [*SMALL, "clap.batch=4", "clap.others=2", "clap.hidden=0.3", "clap.colour=0.5", "data.mix=0.3",
               "validate_every=100"]
    in_two(tmp_path, data, stage, changes)
    for name, more in (("one", []), ("half", [f"{stage}.batch=2"])):
        run(Session(data, tmp_path / name, (stage,)), read_config("tiny", None, [*changes, *more]))
    two, one, half = (torch.cat([v.flatten().double() for _, v in sorted(weights(tmp_path / n).items())])
                      for n in ("two", "one", "half"))
    assert float((two - one).norm()) < 0.1 * float((half - one).norm()), "rounding, not another batch"


def test_two_processes_go_by_one_clock(data: Path, tmp_path: Path) -> None:
    """Where one's clock is three times as fast, both save, and end, and lower their rate at the same steps: they stay alike."""
    ticking = """
import itertools, os, types, torch
from audiogen.train import loop
from audiogen.train.stage import Stage
rank, ticks, step = int(os.environ["RANK"]), itertools.count(), Stage.step
loop.time = types.SimpleNamespace(monotonic=lambda: (1.0 + 2 * rank) * next(ticks))
def watched(self, parts, lr):
    told = step(self, parts, lr)
    torch.save((self.updates, lr, self.modules["clap"].state_dict()), f"{sys.argv[2]}.{rank}")
    return told
Stage.step = watched
"""
    script = SCRIPT.replace("data, out", ticking + "data, out", 1)
    changes = [*SMALL, "clap.steps=1000", "clap.minutes=2", "clap.decay=1.0", "save_minutes=0.3"]
    out = in_two(tmp_path, data, "clap", changes, script)
    assert load_model(out).config.clap is not None
    mine, theirs = (torch.load(f"{out}.{r}", weights_only=True) for r in range(2))
    assert 10 < mine[0] <= 40, "two minutes of three seconds and more"
    assert_same(mine, theirs)


def test_a_loss_that_is_no_number_keeps_the_last_save(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Stage.step

    def spoilt(self: Stage, parts: object, lr: float) -> dict[str, torch.Tensor]:
        told = step(self, parts, lr)                             # type: ignore[arg-type]
        return told | {"loss": torch.tensor(float("nan"))} if self.updates == 5 else told

    monkeypatch.setattr(Stage, "step", spoilt)
    with pytest.raises(AudiogenError, match="not a number at step 5; the last good save is step 3: lower autoencoder.lr"):
        run(Session(data, tmp_path / "run", ("autoencoder",)), settings())
    known = state.load(tmp_path / "run", "autoencoder")
    assert known is not None
    assert known["step"] == 3


def test_a_full_disk_keeps_the_last_save(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = torch.save, []

    def full(obj: object, file: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        save(obj, file)                                          # type: ignore[arg-type]

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(AudiogenError, match="No space left on device.*the last good save is step 3"):
        run(Session(data, tmp_path / "run", ("autoencoder",)), settings())
    assert [p.name for p in (tmp_path / "run" / "state").iterdir()] == ["autoencoder-000000003"]
    assert load_model(tmp_path / "run").config.family == "audiogen"


def test_being_asked_to_stop_saves(data: Path, tmp_path: Path) -> None:
    import signal

    def ask(told: Told) -> None:
        if told.step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped, match="Stopped at step 2 of the autoencoder"):
        run(Session(data, tmp_path / "run", ("autoencoder",), watch=ask), settings())
    assert [p.name[-1] for p in state.saves(tmp_path / "run", "autoencoder")] == ["2"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_unreadable_save_falls_back_to_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        state.save(tmp_path, "vocoder", step, {"step": step})
    (tmp_path / "state" / "vocoder-000000003" / "state.pt").write_bytes(b"half")
    known = state.load(tmp_path, "vocoder")
    assert known == {"step": 2}
    (tmp_path / "state" / "vocoder-000000002" / "state.pt").write_bytes(b"")
    with pytest.raises(AudiogenError, match="No save of the vocoder"):
        state.load(tmp_path, "vocoder")


def test_runs_are_not_mistaken_for_others(whole: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run already"):
        run(Session(data, whole, ("vocoder",)), settings())
    with pytest.raises(ConfigError, match=r"begun with vocoder.lr = 0.001, not 0.5"):
        run(Session(data, whole, ("vocoder",), resume=True), settings("vocoder.lr=0.5"))


def test_a_run_of_before_a_stage_was_known_goes_on(data: Path, tmp_path: Path) -> None:
    run(Session(data, tmp_path, ("autoencoder",)), settings("autoencoder.steps=1"))
    known = tmp_path / "train.toml"
    before, after = known.read_text().split("[preference]")
    known.write_text(before)
    assert after
    run(Session(data, tmp_path, ("autoencoder",), resume=True), settings("autoencoder.steps=2"))
    assert rows(tmp_path, "autoencoder")[-1]["step"] == 2


def test_fine_tuning_starts_from_a_models_weights(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    run(Session(data, out, ("diffusion",), init=whole), settings("diffusion.steps=2", "diffusion.ema=0.0"))
    ours, theirs = weights(out), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if not k.startswith("unet:"))
    moved = max(float((ours[k] - theirs[k]).abs().max()) for k in ours if k.startswith("unet:"))
    assert 0 < moved < 0.05
    assert load_model(out).config == load_model(whole).config


@pytest.mark.parametrize("name", ["audioldm2-tiny", "auffusion-tiny", "audioldm-tiny"])
def test_published_models_are_fine_tuned(data: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "tuned"
    changes = ("diffusion.steps=24", "diffusion.lr=3e-3", "diffusion.ema=0.5", "diffusion.long=0.0", "diffusion.batch=6",
               "validate_every=100", "save_every=24")
    run(Session(data, out, ("diffusion",), init=CHECKPOINTS / name), settings(*changes))
    losses = [x["loss"] for x in rows(out, "diffusion") if "loss" in x]
    assert sum(losses[-8:]) < 0.97 * sum(losses[:8]), losses
    model = load_model(out)
    made = Pipeline(model, "cpu", torch.float32).generate(["a tone"], steps=2, duration=0.64)
    assert bool(torch.isfinite(made.audio).all())


def test_kept_latents_are_what_is_drawn(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    told: list[tuple[int, int]] = []
    run(Session(data, out, ("diffusion",), init=whole, reading=lambda i, n: told.append((i, n))),
        settings("diffusion.cache=6", "diffusion.long=0.0"))
    assert (6, 6) in told
    assert (out / "cache" / "latents.npy").exists()
    assert len(rows(out, "diffusion")) >= 6


def test_configuration_survives_its_file(tmp_path: Path) -> None:
    config = settings('prompts=["a \\"quoted\\" thing"]', "diffusion.min_snr=5.0")
    path = tmp_path / "train.toml"
    path.write_text(to_toml(config))
    again = read_config("tiny", path)
    assert replace(again, model=config.model) == config
    path.write_text("[vocoder]\nstepz = 3\n")
    with pytest.raises(ConfigError, match=r"unknown key 'stepz', did you mean 'steps'\?"):
        read_config("tiny", path)
    with pytest.raises(ConfigError, match="cannot be taken in 3 equal parts"):
        settings("clap.accumulate=3")
