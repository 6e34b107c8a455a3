"""A step of training as a function of tensors: an example at several noise levels, and, on a GPU, steps from a recording."""

from dataclasses import replace

import pytest
import torch

from audiogen.checkpoint import build_autoencoder, build_vocoder
from audiogen.diffusion.conditioning import Conditioning
from audiogen.models.unet import UNet
from audiogen.train.autoencoder import AutoencoderStage
from audiogen.train.build import trainable
from audiogen.train.config import read_config
from audiogen.train.diffusion import DiffusionStage, blur
from audiogen.train.examples import Examples
from audiogen.train.stage import Machine, Stage
from audiogen.train.vocoder import VocoderStage

CONFIG = read_config("tiny", None, ["vocoder.adversarial_from=7", "vocoder.decoded=0.5", "diffusion.drop=0"])


def stage(name: str, device: str, dtype: torch.dtype = torch.float32, levels: int = 2) -> Stage:
    torch.manual_seed(0)
    machine, model = Machine(device, dtype), CONFIG.model
    autoencoder = trainable(build_autoencoder(model.autoencoder))
    if name == "autoencoder":
        return AutoencoderStage(model, CONFIG.autoencoder, machine, autoencoder)
    if name == "vocoder":
        return VocoderStage(model, CONFIG.vocoder, machine, trainable(build_vocoder(model.vocoder, model.mel)), autoencoder)

    def encode(captions: list[str]) -> list[Conditioning]:
        return [Conditioning(film=torch.full((1, model.unet.film_dim or 0), len(c) / 10)) for c in captions]

    return DiffusionStage(model, replace(CONFIG.diffusion, levels=levels), machine, UNet(model.unet), autoencoder, encode, False)


def examples(seed: int, seconds: float = 0.64) -> Examples:
    wave = 0.1 * torch.randn(4, int(seconds * 16_000), generator=torch.Generator().manual_seed(seed))
    return Examples(wave, ["a", "bb", "ccc", "dddd"], [7 * seed + i for i in range(4)])


@torch.no_grad()
def test_several_noise_levels_are_the_mean_of_each() -> None:
    two, one = stage("diffusion", "cpu"), stage("diffusion", "cpu", levels=1)
    assert isinstance(two, DiffusionStage)
    assert isinstance(one, DiffusionStage)
    given, net = two.inputs(examples(1)), one.modules["diffusion"]
    when, keys = given["when"], given["keys"]
    each = [float(one.loss(net, {**given, "when": (when + i / 2) % 1, "keys": keys + i})) for i in (0, 1)]
    assert float(two.loss(net, given)) == pytest.approx(sum(each) / 2, rel=1e-5)
    assert abs(each[0] / each[1] - 1) > 1e-3
    assert float(two.loss(net.eval(), given)) == pytest.approx(each[0], rel=1e-5), "a validation has one level"


def test_captions_blur_around_what_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    text = Conditioning((torch.randn(64, 12, 384, generator=generator),), (torch.arange(12) < 10,), 3 * torch.randn(64, 384))
    text = replace(text, masks=(text.masks[0].expand(64, 12),))                        # type: ignore[union-attr]
    keys, told = torch.arange(64) * 99, torch.arange(64) % 2 == 0
    made = blur(text, keys, told, replace(CONFIG.diffusion, text_noise=0.5, text_drop=0.25))
    again = blur(text.map(lambda x: x[8:]), keys[8:], told[8:], replace(CONFIG.diffusion, text_noise=0.5, text_drop=0.25))
    context, mask, film = made.contexts[0], made.masks[0], made.film
    assert mask is not None
    assert film is not None
    assert again.film is not None
    assert torch.equal(context[~told], text.contexts[0][~told]), "the empty text is as it will be"
    assert torch.equal(mask[~told], text.masks[0][~told])                              # type: ignore[index]
    assert torch.equal(again.film, film[8:]), "each item's noise is its own"
    for x, y in ((context, text.contexts[0]), (film, text.film)):
        off = ((x - y)[told].square().mean(dim=-1) / y[told].square().mean(dim=-1)).sqrt()
        assert 0.4 < float(off.max()) < 0.55, "of the size of what it is added to"
        assert float(off.mean()) == pytest.approx(0.25, abs=0.06), "from none to all of it"
    assert bool(mask[:, 0].all()), "something is seen"
    assert not mask[:, 10:].any(), "filling stays unseen"
    assert float(mask[told][:, 1:10].float().mean()) == pytest.approx(0.75, abs=0.08)


@torch.no_grad()
def test_only_captions_blur() -> None:
    plain, blurred = stage("diffusion", "cpu"), stage("diffusion", "cpu")
    assert isinstance(blurred, DiffusionStage)
    blurred.config = replace(blurred.config, text_noise=0.5, text_drop=0.1)

    def loss(of: Stage, captions: list[str]) -> float:
        assert isinstance(of, DiffusionStage)
        return float(of.loss(of.modules["diffusion"], of.inputs(replace(examples(1), captions=captions))))

    assert loss(blurred, [""] * 4) == loss(plain, [""] * 4)
    assert loss(blurred, ["dddd"] * 4) != loss(plain, ["dddd"] * 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are a GPU's")
@pytest.mark.parametrize("name", ["autoencoder", "vocoder", "diffusion"])
def test_recorded_steps_are_the_plain_ones(name: str) -> None:
    """Of two lengths in turn, and of the vocoder before and after its judges join; float32, so that they stay together."""
    recorded, plain = stage(name, "cuda"), stage(name, "cuda")
    assert recorded.graphs is not None
    plain.graphs = None
    for i in range(16):
        batch = examples(i, 0.64 if i % 2 else 1.28)
        a, b = (s.step([lambda batch=batch: batch], 1e-4) for s in (recorded, plain))        # type: ignore[misc]
        assert a.keys() == b.keys()
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-3)
    assert len(recorded.graphs.recordings) >= 2
