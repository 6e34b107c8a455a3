"""Text encoders: every published way of naming their weights loads, and prompts are cut and told as they should be."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import CHECKPOINTS, relative, tiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from audiogen.checkpoint import load_model, read_folder
from audiogen.diffusion.conditioning import Conditioning, collate
from audiogen.encoders import load_tokenizer, load_transformer
from audiogen.errors import CheckpointError, SettingsError

CLIP, GPT2, T5 = "auffusion-tiny/text_encoder_0", "audioldm2-tiny/language_model", "audioldm2-tiny/text_encoder_2"
CLAP, VITS = "audioldm-tiny/text_encoder", "audioldm2-speech-tiny/text_encoder_2"
IDS = torch.tensor([[0, 5, 9, 2]])
State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def weight_norm_of_old(state: State) -> State:
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    return {next((k.replace(new, old) for new, old in names.items() if new in k), k): v for k, v in state.items()}


OLD_GPT2 = {"h.0.attn.bias": torch.ones(1, 1, 1024, 1024, dtype=torch.bool), "h.0.attn.masked_bias": torch.tensor(-1e4)}
LAYOUTS = {
    "CLIP with a prefix": (CLIP, "CLIPTextModel", lambda s: prefixed(s, "text_model.")),
    "CLIP with counted positions": (CLIP, "CLIPTextModel", lambda s: {**prefixed(s, "text_model."),
                                    "text_model.embeddings.position_ids": torch.arange(77)[None]}),
    "GPT-2 within a language model": (GPT2, "GPT2Model", lambda s: {
        **prefixed(s, "transformer."), "lm_head.weight": s["wte.weight"]}),
    "GPT-2 with its old constants": (GPT2, "GPT2Model", lambda s: s | OLD_GPT2),
    "T5 by its encoder's name": (T5, "T5EncoderModel", lambda s: {
        "encoder.embed_tokens.weight" if k == "shared.weight" else k: v for k, v in s.items()}),
    "T5 with a decoder": (T5, "T5EncoderModel", lambda s: s | {k.replace("encoder.", "decoder."): v for k, v in s.items()}),
    "CLAP without counted positions": (CLAP, "ClapTextModelWithProjection", lambda s: {
        k: v for k, v in s.items() if not k.endswith("_ids")}),
    "VITS with weight norm's old names": (VITS, "VitsModel", weight_norm_of_old),
}


def states(model: torch.nn.Module) -> Tensor:
    """What the encoder makes of a few tokens."""
    with torch.no_grad():
        if type(model).__name__ == "VitsModel":
            ones = torch.ones(1, 4)
            return model.text_encoder(input_ids=IDS, padding_mask=ones[..., None], attention_mask=ones)[0]
        return model(IDS)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_names_of_weights(layout: str) -> None:
    folder, cls, rename = LAYOUTS[layout]
    state = read_folder(CHECKPOINTS / folder)
    renamed = rename(state)
    assert renamed.keys() != state.keys()
    expected = states(load_transformer(CHECKPOINTS / folder, cls, read_folder).eval())
    assert torch.equal(states(load_transformer(CHECKPOINTS / folder, cls, lambda _: dict(renamed)).eval()), expected)
    for key in renamed:                                          # another value moves it: the weights were taken up
        if renamed[key].ndim == 2 and renamed[key].is_floating_point() and "decoder" not in key and "lm_head" not in key:
            renamed[key] = renamed[key].flip(0)
    assert relative(states(load_transformer(CHECKPOINTS / folder, cls, lambda _: dict(renamed)).eval()), expected) > 1e-3


@pytest.mark.parametrize(("folder", "cls"), [(CLIP, "CLIPTextModel"), (GPT2, "GPT2Model"), (T5, "T5EncoderModel"),
                                             (CLAP, "ClapTextModelWithProjection")])
def test_weights_that_do_not_fit_are_counted_and_named(folder: str, cls: str) -> None:
    state = load_file(CHECKPOINTS / folder / "model.safetensors")
    matrix = next(k for k in sorted(state) if "layer" in k.lower() and state[k].ndim == 2 or "h.1.mlp.c_fc.weight" in k)
    for changed, message in [
            ({k: v for k, v in state.items() if k != matrix}, f"1 missing .first: {matrix}"),
            (state | {"extra.weight": torch.zeros(3)}, "1 unexpected .first: extra.weight"),
            (state | {matrix: state[matrix][:, :-1]}, f"1 of the wrong shape .first: {matrix}")]:
        with pytest.raises(CheckpointError, match=message):
            load_transformer(CHECKPOINTS / folder, cls, lambda _, s=changed: dict(s))


def test_language_model_published_with_its_head(tmp_path: Path) -> None:
    """A GPT2LMHeadModel's folder gives the same conditioning as the bare GPT2Model's."""
    folder = tmp_path / "audioldm2"
    shutil.copytree(CHECKPOINTS / "audioldm2-tiny", folder)
    path = folder / "language_model/model.safetensors"
    state = load_file(path)
    save_file(prefixed(state, "transformer.") | {"lm_head.weight": state["wte.weight"].clone()}, path)
    data = json.loads((folder / "language_model/config.json").read_text())
    (folder / "language_model/config.json").write_text(json.dumps(data | {"architectures": ["GPT2LMHeadModel"]}))
    with torch.inference_mode():
        got = load_model(folder).text.encode("a dog", "noise", True)
        expected = tiny("audioldm2-tiny").model.text.encode("a dog", "noise", True)
    for a, b in zip(got, expected, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.contexts, b.contexts, strict=True))


@torch.inference_mode()
def test_lengths_and_masks_of_each_recipe() -> None:
    clap = tiny("audioldm-tiny").model.text.encode("a dog barks", None, True)
    assert all(c.contexts == () and c.film.norm(dim=-1).item() == pytest.approx(1, abs=1e-5) for c in clap)
    cond, away = tiny("audioldm2-tiny").model.text.encode("a dog barks", "bad", True)
    assert cond.contexts[0].shape[:2] == (1, 8)
    assert cond.contexts[1].shape == away.contexts[1].shape
    assert away.masks[1].sum() < away.masks[1].numel()           # the shorter negative prompt is padded
    cond, away = tiny("auffusion-tiny").model.text.encode("a dog barks", None, True)
    assert cond.contexts[0].shape[1] == 77
    assert away.contexts[0].abs().max() == 0                     # nothing, rather than the states of ""
    assert tiny("auffusion-tiny").model.text.encode("a dog", "", True)[1].contexts[0].abs().max() > 0
    assert tiny("auffusion-tiny").model.text.encode("a dog", "", False)[1] is None


@pytest.mark.parametrize("name", ["audioldm-tiny", "auffusion-tiny", "audioldm2-tiny", "musicldm-tiny"])
def test_what_exceeds_the_limit_is_told(name: str) -> None:
    text = tiny(name).model.text
    assert text.excess("a dog barks") == ""
    long = " ".join(["rain"] * 600) + " thunder"
    rest = text.excess(long)
    assert rest.endswith("thunder")
    assert 0 < len(rest) < len(long)
    with torch.inference_mode():
        cut = text.encode(long, None, False)[0]
        again = text.encode(long + " and a cat", None, False)[0]
        heard = text.encode("cat " + long, None, False)[0]
    first = lambda c: c.film if c.film is not None else c.contexts[-1]                # noqa: E731
    assert torch.equal(first(cut), first(again))                 # what was told to be cut does not count
    assert not torch.equal(first(cut), first(heard))


def test_tokens_have_a_place_in_the_context() -> None:
    for name, context in (("auffusion-tiny", 0), ("audioldm2-tiny", 1)):
        text = tiny(name).model.text
        tokens = text.tokens("a dog barks")
        with torch.inference_mode():
            cond = text.encode("a dog barks", None, False)[0]
        assert len(tokens) <= cond.contexts[context].shape[1]
        assert "".join(tokens).replace("<|startoftext|>", "").replace(" ", "").startswith("adogbarks")
    assert tiny("audioldm-tiny").model.text.tokens("a dog barks") == []


def test_a_speech_model_needs_words() -> None:
    with pytest.raises(SettingsError, match="--say"):
        tiny("audioldm2-speech-tiny").generate(["a man"], steps=1, duration=0.3)
    with pytest.raises(SettingsError, match="does not speak"):
        tiny("audioldm-tiny").generate(["a man"], says=["hello"], steps=1, duration=0.3)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_collate_pads_and_masks() -> None:
    a = Conditioning((torch.ones(1, 2, 3), torch.ones(1, 4, 5)), (None, None))
    b = Conditioning((torch.ones(1, 2, 3), torch.ones(1, 6, 5)), (None, torch.tensor([[True] * 5 + [False]])))
    both = collate([a, b])
    assert both.masks[0] is None
    assert both.contexts[1].shape == (2, 6, 5)
    assert both.masks[1].tolist() == [[True] * 4 + [False] * 2, [True] * 5 + [False]]
    assert both.contexts[1][0, 4:].abs().max() == 0
