"""A stage from a run folder: its networks as they lie there, and what helps them to learn."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from audiogen.checkpoint import build_clap, load_part, load_weights, read_folder, read_model_config, read_weights
from audiogen.config import ModelConfig
from audiogen.diffusion.conditioning import Conditioning
from audiogen.distributed import rank, wait
from audiogen.errors import ConfigError
from audiogen.sentence import Sentence
from audiogen.text import TextEncoder, load_text_encoder
from audiogen.train.autoencoder import AutoencoderStage
from audiogen.train.captions import Captions
from audiogen.train.clap import TOWER, ClapStage, shape
from audiogen.train.config import TrainConfig
from audiogen.train.diffusion import DiffusionStage
from audiogen.train.examples import Drawer
from audiogen.train.preference import PreferenceStage
from audiogen.train.stage import Machine, Stage
from audiogen.train.tower import read_tower
from audiogen.train.vocoder import VocoderStage
from audiogen.train.wording import Wordings, WordingStage

BEFORE = "text-before"                                           # the sentence encoder that a U-Net was trained with


def build(name: str, run: Path, config: TrainConfig, machine: Machine, fresh: bool = True) -> Stage:
    """The stage `name`, starting from the weights in the run folder."""
    model = read_model_config(run)
    torch.manual_seed(config.seed)                               # of what is drawn anew: judges and CLAP's towers
    if name == "clap":
        return _clap_stage(run, model, config, machine)
    if name == "wording":
        return _wording_stage(run, model, config, machine)
    autoencoder = trainable(load_part("autoencoder", model, run / "autoencoder.safetensors"))
    if name == "autoencoder":
        return AutoencoderStage(model, config.autoencoder, machine, autoencoder)
    if name == "vocoder":
        vocoder = trainable(load_part("vocoder", model, run / "vocoder.safetensors"))
        return VocoderStage(model, config.vocoder, machine, vocoder, autoencoder)
    unet = trainable(load_part("unet", model, run / "unet.safetensors"))
    if name == "preference":
        return _preference_stage(run, model, config, machine, unet, autoencoder)
    return DiffusionStage(model, config.diffusion, machine, unet, autoencoder, _captions(run / "text", model, machine), fresh)


def _clap_stage(run: Path, model: ModelConfig, config: TrainConfig, machine: Machine) -> ClapStage:
    """The run's CLAP, or a new one: over its sentence encoder, or with its text tower, which is trained too."""
    if model.text.kind not in ("clap", "sentence"):
        raise ConfigError(f"{run}: no CLAP can be trained beside a text encoder '{model.text.kind}'; leave out --stage clap.")
    clap = build_clap(model, shape(model, config.clap))
    if model.clap is not None:
        load_weights(clap, read_weights(run / "clap.safetensors"), str(run / "clap.safetensors"))
    if model.text.kind == "sentence":
        encode = _captions(run / "text", model, machine)
        known = Captions(lambda captions: [Conditioning((), (), c.film) for c in encode(captions)], machine.device)

        def film(captions: list[str]) -> Tensor:
            means = known(captions).film
            assert means is not None
            return means

        return ClapStage(model, config.clap, machine, clap, film)
    tower, tokenizer = read_tower(run / "text")
    load_weights(tower, read_weights(run / f"{TOWER}.safetensors"), str(run / "text"))

    def embed(captions: list[str]) -> Tensor:
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt").to(machine.device)
        return tower(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).text_embeds

    return ClapStage(model, config.clap, machine, clap, embed, tower)


def _wording_stage(run: Path, model: ModelConfig, config: TrainConfig, machine: Machine) -> WordingStage:
    """The run's sentence encoder, as it was before this stage and as it learns now, and what reads it."""
    if model.text.kind != "sentence" or not model.unet.context_dims or not model.unet.film_dim:
        raise ConfigError(f"{run}: only a U-Net that reads a sentence encoder's states and their mean can teach it; leave out "
                          "--stage wording.")
    if config.data.words is None:
        raise ConfigError("wording: there are no other wordings to learn; name their file with --set data.words=FILE.")
    before, now = run / BEFORE, run / "text"
    if rank() == 0 and not before.exists():
        shutil.copytree(now, run / f".{BEFORE}.part", dirs_exist_ok=True, copy_function=shutil.copyfile)
        (run / f".{BEFORE}.part").replace(before)
    wait()
    teacher = load_text_encoder(before, model.text, read_folder, machine.device, torch.float32)
    learner = load_text_encoder(now, model.text, read_folder, machine.device, torch.float32)
    assert isinstance(teacher, Sentence)
    assert isinstance(learner, Sentence)
    clap = None if model.clap is None else load_part("clap", model, run / "clap.safetensors")
    return WordingStage(model, config.wording, machine, trainable(learner.encoder), teacher,
                        _captions(before, model, machine), load_part("unet", model, run / "unet.safetensors"), clap)


def _preference_stage(run: Path, model: ModelConfig, config: TrainConfig, machine: Machine, unet: nn.Module,
                      autoencoder: nn.Module) -> PreferenceStage:
    """The run's U-Net, what makes waves of its latents, and the CLAP that hears them."""
    if model.clap is None:
        raise ConfigError(f"{run}: there is no CLAP that could hear which takes fit; train one with --stage clap first.")
    vocoder = load_part("vocoder", model, run / "vocoder.safetensors")
    clap = load_part("clap", model, run / "clap.safetensors")
    return PreferenceStage(model, config.preference, machine, unet, autoencoder, vocoder, clap,
                           _captions(run / "text", model, machine))


def wordings(stage: WordingStage, run: Path, drawer: Drawer) -> tuple[Wordings, Wordings | None]:
    """What the stage learns from, and what is held out of it; the stage hears its U-Net."""
    draws, held = Wordings(drawer, stage.config), Wordings(drawer, stage.config, held=True)
    autoencoder = load_part("autoencoder", stage.model, run / "autoencoder.safetensors", stage.machine.device)
    stage.listen(drawer, draws, autoencoder)
    return draws, held if held.labels else None


def _captions(text: Path, model: ModelConfig, machine: Machine) -> Callable[[list[str]], list[Conditioning]]:
    """Captions, each encoded alone by the text encoder in a folder."""
    encoder = load_text_encoder(text, model.text, read_folder, machine.device, torch.float32)

    def encode(captions: list[str]) -> list[Conditioning]:
        if isinstance(encoder, Sentence) and machine.device.startswith("cuda"):              # a CPU's bits depend on company
            return encoder.together(captions)
        return [encoder.encode(c, None, False)[0] if c else nothing(encoder) for c in captions]

    return encode


def nothing(encoder: TextEncoder) -> Conditioning:
    """What a model is guided away from where nobody asks for more."""
    away = encoder.encode("", None, True)[1]
    assert away is not None
    return away


def trainable(module: nn.Module) -> nn.Module:
    """A loaded network, its weights its own again and open to change."""
    for p in module.parameters():
        p.data = p.data.clone()
    return module.train().requires_grad_(True)
