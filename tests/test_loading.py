"""Weights are converted as they are read, and mean the same as weights converted afterwards."""

from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import CHECKPOINTS, normal, relative

from audiogen.checkpoint import load_model, quantise, read_folder, read_weights, save_weights
from audiogen.encoders import load_transformer


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
    exact, rounded = (load_model(CHECKPOINTS / "audioldm2-tiny", dtype=d) for d in (torch.float32, torch.bfloat16))
    for part in ("unet", "autoencoder"):
        for name, weight in getattr(exact, part).state_dict().items():
            assert torch.equal(weight.bfloat16(), getattr(rounded, part).state_dict()[name])
    assert {p.dtype for p in rounded.vocoder.parameters()} == {torch.float32}
