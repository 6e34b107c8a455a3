"""Weights are converted as they are read, and mean the same as weights converted afterwards."""

from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import CHECKPOINTS, normal, relative

from audiogen.checkpoint import (
    load_model,
    load_part,
    locate,
    quantise,
    read_folder,
    read_model_config,
    read_weights,
    save_weights,
)
from audiogen.encoders import load_transformer
from audiogen.hub import load


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_converted_as_it_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {f"layer{i}.weight": normal(8, 9, seed=i) for i in range(70)} | {"position_ids": torch.arange(5)}
    save_weights(tmp_path / "w.safetensors", state)
    read = read_weights(tmp_path / "w.safetensors", dtype)
    assert read.keys() == state.keys()
    assert torch.equal(read["position_ids"], state["position_ids"])
    for name in state.keys() - {"position_ids"}:
        assert torch.equal(read[name], state[name].to(dtype))
        assert not torch.equal(read[name].float(), state[name])  # it was rounded


def test_scales_of_eight_bits_are_not_rounded(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", quantise({"weight": normal(64, 64)}))
    exact, narrow = (read_weights(tmp_path / "w.safetensors", d)["weight"] for d in (None, torch.bfloat16))
    assert torch.equal(exact, narrow)
    assert 0 < relative(exact, normal(64, 64)) < 0.02


def test_text_encoders_are_not_widened() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        read = partial(read_folder, dtype=dtype)
        encoder = load_transformer(CHECKPOINTS / "audioldm2-tiny/text_encoder_2", "T5EncoderModel", read)
        assert {p.dtype for p in encoder.parameters()} == {dtype}


def test_a_model_in_bfloat16_is_the_model_in_float32_rounded() -> None:
    folder = CHECKPOINTS / "audioldm2-tiny"
    config, places = read_model_config(folder), locate(folder)
    for part in ("unet", "autoencoder"):
        exact, rounded = (load_part(part, config, places[part], dtype=d).state_dict() for d in (torch.float32, torch.bfloat16))
        assert exact.keys() == rounded.keys()
        assert all(torch.equal(weight.bfloat16(), rounded[name]) for name, weight in exact.items())
    assert {p.dtype for p in load_model(folder, dtype=torch.bfloat16).vocoder.parameters()} == {torch.float32}


def test_networks_are_read_when_they_are_needed_and_the_text_encoder_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Used once, a model never holds its text encoder beside what runs; and it sounds the same."""
    folder = CHECKPOINTS / "audioldm2-tiny"
    once, kept = load(str(folder), "cpu", once=True), load(str(folder), "cpu")
    networks = {"unet", "autoencoder", "vocoder"}
    assert networks.isdisjoint(vars(once.model))
    assert networks <= vars(kept.model).keys()
    held: list[set[str]] = []
    monkeypatch.setattr("audiogen.pipeline.sample", lambda name, denoise, x, *_, **__: held.append(set(vars(once.model))) or x)
    once.generate(["a dog"], steps=2, duration=0.3)
    assert held[0] & (networks | {"text"}) == networks
    monkeypatch.undo()
    takes = [p.generate(["a dog", "a cat"], steps=2, duration=0.3, count=2).audio for p in (once, kept)]
    assert torch.equal(*takes)
    reads: list[str] = []
    monkeypatch.setitem(once.model.readers, "text", lambda: reads.append("text"))
    assert torch.equal(once.generate(["a dog", "a cat"], steps=2, duration=0.3, count=2).audio, takes[0])
    assert not reads, "the encodings of the latest texts are kept"
