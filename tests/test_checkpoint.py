"""Weights: read strictly and safely, from every usual kind of file; broken and hostile files are one sentence."""

import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import CHECKPOINTS, normal, relative
from safetensors.torch import load_file, save_file
from torch import nn

from audiogen.checkpoint import (
    dequantise,
    load_model,
    load_part,
    load_weights,
    locate,
    quantise,
    read_folder,
    read_model_config,
    read_weights,
    save_config,
    save_weights,
)
from audiogen.config import read_json
from audiogen.errors import CheckpointError, ConfigError
from audiogen.hub import load
from audiogen.pipeline import Pipeline


def copied(name: str, to: Path) -> Path:
    return shutil.copytree(CHECKPOINTS / name, to / name)


def wave(folder: Path) -> torch.Tensor:
    return Pipeline(load_model(folder), "cpu", torch.float32).generate(["a dog"], seeds=[1], steps=2, duration=0.3).audio


def test_faults_are_counted_and_named() -> None:
    layer = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    good = {k: v.clone() for k, v in layer.state_dict().items()}
    bad = {"0.weight": good["0.weight"], "1.weight": torch.zeros(4, 2), "2.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_weights(layer, bad, "here.safetensors")
    assert str(caught.value) == ("here.safetensors does not fit Sequential: weights 2 missing (first: 0.bias); "
                                 "1 unexpected (first: 2.weight); 1 of the wrong shape (first: 1.weight).")
    assert torch.equal(layer[0].weight, good["0.weight"])        # nothing was put in place
    changed = {k: v + 1 for k, v in good.items()}
    load_weights(layer, changed, "here")
    assert torch.equal(layer[1].bias, good["1.bias"] + 1)


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "of the wrong shape"])
def test_a_model_with_wrong_weights(part: str, fault: str, tmp_path: Path) -> None:
    path = copied("audioldm-tiny", tmp_path) / part / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    key = next(k for k in sorted(state) if k.endswith("conv1.weight"))
    if fault == "missing":
        del state[key]
    elif fault == "unexpected":
        key = "zzz.weight"
        state[key] = torch.zeros(2)
    else:
        state[key] = state[key][:-1].clone()
    save_file(state, path)
    with pytest.raises(CheckpointError, match=f"{part} does not fit .*1 {fault} .first: {re.escape(key)}"):
        load(str(tmp_path / "audioldm-tiny"), "cpu")


def test_folders_of_bin_files(tmp_path: Path) -> None:
    """pytorch_model.bin and diffusion_pytorch_model.bin, as older releases have them: the same sound."""
    folder = copied("audioldm2-tiny", tmp_path)
    for path in folder.rglob("*.safetensors"):
        torch.save(load_file(path), path.with_name(("pytorch_" if path.name == "model.safetensors" else "") + path.stem + ".bin"))
        path.unlink()
    assert len(list(folder.rglob("*.bin"))) == 7
    assert relative(wave(folder), wave(CHECKPOINTS / "audioldm2-tiny")) < 1e-5


def test_folders_in_shards(tmp_path: Path) -> None:
    folder = copied("audioldm-tiny", tmp_path)
    for path in (folder / "unet/diffusion_pytorch_model.safetensors", folder / "text_encoder/model.safetensors"):
        state = load_file(path)
        names = [f"{path.stem}-0000{i + 1}-of-00003.safetensors" for i in range(3)]
        where = {key: names[i % 3] for i, key in enumerate(sorted(state))}
        for name in names:
            save_file({k: v for k, v in state.items() if where[k] == name}, path.with_name(name))
        path.unlink()
        path.with_name(f"{path.name}.index.json").write_text(f'{{"weight_map": {str(where).replace(chr(39), chr(34))}}}')
    assert relative(wave(folder), wave(CHECKPOINTS / "audioldm-tiny")) < 1e-5
    (folder / "unet" / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="00002-of-00003.safetensors is not there"):
        load(str(folder), "cpu")


@pytest.mark.parametrize("kind", ["cut short", "text", "empty"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_broken_files_are_one_sentence(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".bin":
        torch.save({"a": normal(64, 64)}, path)
    else:
        save_file({"a": normal(64, 64)}, path)
    whole = path.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    path.write_bytes({"cut short": whole[: len(whole) // 2], "text": pointer, "empty": b""}[kind])
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))} cannot be read as weights") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


class Attack:
    """What a hostile pickle holds: a call that its reader is made to do."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_does_not_run(zipped: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "vocoder.pt", tmp_path / "mark"
    if zipped:
        torch.save({"a": torch.zeros(2), "b": Attack(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Attack(mark)}))
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_weights(path)
    assert not mark.exists()
    torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())
    assert mark.exists()                                         # it would have


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model"):
        load(str(tmp_path), "cpu")
    with pytest.raises(CheckpointError, match="is not there"):
        read_weights(tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match="no weights there"):
        read_folder(tmp_path)
    shutil.rmtree(copied("audioldm-tiny", tmp_path) / "unet")
    with pytest.raises((CheckpointError, ConfigError), match="unet"):
        load(str(tmp_path / "audioldm-tiny"), "cpu")


def test_eight_bits_are_within_half_a_step_of_each_row() -> None:
    state = {"a.weight": normal(64, 3, 16) * torch.logspace(-6, 3, 64)[:, None, None], "a.bias": normal(64, seed=1),
             "zero": torch.zeros(40, 40), "count": torch.arange(5)}
    small = quantise(state)
    assert small["a.weight"].dtype == torch.int8
    back = dequantise(small)
    assert back.keys() == state.keys()
    scale = state["a.weight"].flatten(1).abs().amax(1) / 127
    worst = (back["a.weight"] - state["a.weight"]).flatten(1).abs().amax(1)
    assert (worst <= scale / 2 * (1 + 1e-4)).all()
    assert (worst > 0).any()
    assert torch.equal(back["zero"], state["zero"])
    assert torch.equal(back["count"], state["count"])
    assert torch.allclose(back["a.bias"], state["a.bias"], rtol=1e-3, atol=1e-4)
    assert back["a.weight"].dtype == back["a.bias"].dtype == torch.float32
    assert sum(v.nbytes for v in small.values()) < 0.35 * sum(v.nbytes for v in state.values())


def test_weights_without_scales_pass_unchanged() -> None:
    state = {"x.scale": torch.ones(3), "y": torch.ones(2).half()}
    assert dequantise(state) is state


def test_saved_weights_replace_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "unet.safetensors"
    state = {"a": normal(4, 6).t(), "b": torch.arange(3)}
    save_weights(path, state)
    save_weights(path, state)
    read = read_weights(path)
    assert all(torch.equal(read[k], v) for k, v in state.items())
    with pytest.raises(AttributeError):
        save_weights(path, {"a": None})                          # type: ignore[dict-item]
    assert torch.equal(read_weights(path)["a"], state["a"])
    assert [f.name for f in path.parent.iterdir()] == [path.name]


def test_this_projects_own_folder(tmp_path: Path) -> None:
    """A published model, written out in our own layout, sounds the same."""
    published, folder = CHECKPOINTS / "audioldm-tiny", tmp_path / "own"
    config = read_model_config(published)
    save_config(folder, config)
    for part, where in locate(published).items():
        save_weights(folder / f"{part}.safetensors", load_part(part, config, where).state_dict())
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(CHECKPOINTS / "audioldm-tiny" / part, folder / "text" / part)
    assert relative(wave(folder), wave(CHECKPOINTS / "audioldm-tiny")) < 1e-5
    data = read_json(folder / "config.json")
    (folder / "config.json").write_text(str(data).replace("'", '"').replace("None", "null").replace("True", "true").replace(
        "False", "false").replace("sample_rate", "sampel_rate"))
    with pytest.raises(ConfigError, match="own/config.json.mel: unknown key 'sampel_rate', did you mean 'sample_rate'"):
        load(str(folder), "cpu")
