"""What a GPU makes of AudioLDM 2 at its published size, and of the default model: networks are drawn where they run."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from audiogen.checkpoint import Model
from audiogen.compat import read_config
from audiogen.config import AutoencoderConfig, MelConfig, ModelConfig, UNetConfig, VocoderConfig
from audiogen.diffusion.conditioning import Conditioning, Pair
from audiogen.models.autoencoder import Autoencoder
from audiogen.models.hifigan import HifiGan
from audiogen.models.recorded import Recorded
from audiogen.models.unet import Attended, UNet
from audiogen.models.unset import unset
from audiogen.pipeline import Pipeline
from benchmarks import networks, published
from benchmarks.kernels import kernels
from benchmarks.measure import Options, Row, alternate, duration, rows, table

BATCH = 16


def format_of(options: Options) -> torch.dtype:
    """What a GPU computes in; a CPU, of which only results matter, may be slow at it."""
    return torch.bfloat16 if options.device.startswith("cuda") else torch.float32


def layout(device: str) -> torch.memory_format:
    """In which the U-Net's maps are convolved: on a GPU as `load_model` lays out the weights."""
    return torch.channels_last if device.startswith("cuda") else torch.contiguous_format


class Texts:
    """In the place of AudioLDM 2's text encoders: random states of their shapes, the same for every prompt."""

    def __init__(self) -> None:
        self.pair = networks.conditioning("audioldm2")[1]        # unconditional, conditional

    def encode(self, prompt: str, negative: str | None, guided: bool) -> Pair:
        return self.pair.map(lambda t: t[1:]), self.pair.map(lambda t: t[:1])

    def excess(self, prompt: str) -> str:
        return ""

    def tokens(self, prompt: str) -> list[str]:
        return []


def drawn(build: Callable[[], nn.Module], device: str, dtype: torch.dtype) -> Any:
    """A module with weights of unit gain, drawn on the device."""
    with unset(device):
        module = build().to(dtype)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1:
                p.normal_(0, p[0].numel() ** -0.5)
            else:
                p.fill_(float(name.endswith("weight")))
    return module.eval().requires_grad_(False)


def shapes(quick: bool) -> ModelConfig:
    """AudioLDM 2's configuration, or that of one of few channels."""
    unet, autoencoder, vocoder = networks.CONFIGS["audioldm2"], AutoencoderConfig(), VocoderConfig()
    if quick:
        unet = UNetConfig(**(vars(unet) | {"channels": (64, 64, 64, 64)}))
        autoencoder, vocoder = AutoencoderConfig(channels=(32, 32, 32)), VocoderConfig(channels=64)
    return replace(read_config(published.TOKENIZERS), mel=MelConfig(), unet=unet, autoencoder=autoencoder, vocoder=vocoder)


def guided_steps(options: Options, config: ModelConfig) -> str:
    """One guided evaluation by both sides, eager and (on a GPU) recorded, for one clip and for a batch."""
    device, dtype, tables = options.device, format_of(options), []
    name = str(dtype).removeprefix("torch.")
    theirs = drawn(lambda: published.unet("audioldm2", options.quick), device, dtype).to(memory_format=layout(device))
    ours = networks.same(lambda: UNet(config.unet), theirs)
    given, cond = networks.conditioning("audioldm2")
    size = (16, 16) if options.quick else published.LATENTS["audioldm2"][1:]
    for clips in (1, 2 if options.quick else BATCH):
        inputs = networks.converted({k: v.repeat_interleave(clips, 0) for k, v in given.items()}, device, dtype)
        text: Conditioning = cond.map(lambda t, clips=clips: t.repeat_interleave(clips, 0))      # type: ignore[misc]
        attended, step = Attended(text.to(device, dtype)), torch.full((2 * clips,), 481.0, device=device)
        x = torch.randn(2 * clips, config.unet.in_channels, *size, generator=torch.Generator().manual_seed(2))
        x = x.to(device, dtype, memory_format=layout(device))

        def ask(x: Tensor = x, step: Tensor = step, inputs: dict[str, Any] = inputs) -> Tensor:
            return theirs(x, step, **inputs).sample

        def answer(net: Any, x: Tensor = x, step: Tensor = step, attended: Attended = attended) -> Callable[[], Tensor]:
            return lambda: net(x, step, attended)

        runs = {f"diffusers, {name}": ask, f"audiogen, {name}": answer(ours)}
        if device.startswith("cuda"):
            runs[f"audiogen, {name}, recorded"] = answer(Recorded(ours))
        timed = alternate(runs, replace(options, repeats=1 if options.quick else 10))
        tables.append(table(f"One guided U-Net step of AudioLDM 2: {clips} clip{'s' * (clips > 1)} of 10.24 s",
                            f"A batch of {2 * clips}; both sides with the same weights, on a GPU channels last.",
                            rows(timed, options)))
    run = list(runs.values())[-1]
    tables.append(table(f"Where the step of {clips} clips spends its time", "Kernels by kind, of audiogen's last way above.",
                        kernels(ours, answer(ours), run, options, dtype)))
    return "\n".join(tables)


def made(pipeline: Pipeline, options: Options, seconds: float) -> list[Row]:
    """One clip alone, a batch, and how long the batch's decoding takes of that; each prompt is a new one."""
    prompts, many = (f"a dog barking, take {i}" for i in count()), 2 if options.quick else BATCH
    latents: list[Tensor] = []

    def generate(n: int) -> Tensor:
        done = pipeline.generate([next(prompts) for _ in range(n)], duration=seconds, seeds=list(range(n)))
        latents[:] = [done.latents]
        return done.audio

    def repeat(name: str, run: Callable[[], Tensor], times: int) -> tuple[float, int]:
        timed = alternate({name: run}, replace(options, repeats=1 if options.quick else times), count=False)[name]
        return timed.seconds, timed.runs

    alone, runs = repeat("one", lambda: generate(1), 5)
    together, several = repeat("many", lambda: generate(many), 3)
    decoding, _ = repeat("decoding", lambda: pipeline.decode(latents[0].to(options.device)), 3)
    return [Row("one clip", duration(alone), note=f"median of {runs}; {seconds / alone:.0f} s of sound a second"),
            Row(f"{many} clips together, each", duration(together / many), alone / (together / many),
                note=f"median of {several}; {many * seconds / together:.0f} s of sound a second"),
            Row("of that, from latents to sound", duration(decoding / many))]


def audioldm2(options: Options, config: ModelConfig) -> str:
    """From prompt to waves at this project's defaults, but for the text encoders."""
    device, dtype = options.device, format_of(options)
    readers: dict[str, Callable[[], Any]] = {
        "text": Texts, "unet": lambda: drawn(lambda: UNet(config.unet), device, dtype).to(memory_format=layout(device)),
        "autoencoder": lambda: drawn(lambda: Autoencoder(config.autoencoder), device, dtype),
        "vocoder": lambda: drawn(lambda: HifiGan(config.vocoder), device, torch.float32)}
    pipeline = Pipeline(Model(config, readers, "audioldm2", published.TOKENIZERS), device, dtype)
    c, seconds = config.defaults, 0.64 if options.quick else 10.24
    if options.quick:
        pipeline.config = replace(config, defaults=replace(c, steps=2))
    return table(f"AudioLDM 2 on its way from text to sound: clips of {seconds:g} s",
                 f"Warm, {str(dtype).removeprefix('torch.')} (the vocoder float32), {pipeline.config.defaults.steps} steps of "
                 f"{c.sampler}{' on Karras levels' * c.karras}, guidance {c.guidance:g}; what the text encoders say is given.",
                 made(pipeline, options, seconds))


def everyday(options: Options) -> str:
    """The default model, its text included."""
    from audiogen.hub import DEFAULT, load

    seconds = 0.5 if options.quick else 5.0
    pipeline = load(DEFAULT, options.device)
    return table(f"The default model, {DEFAULT}: clips of {seconds:g} s", "Warm, at its defaults, text included.",
                 made(pipeline, options, seconds))


def sections(options: Options) -> dict[str, Callable[[], str]]:
    """Each part of the report, by the names of --only: there is none without a GPU, but to see that it works."""
    @torch.inference_mode()
    def gpu() -> str:
        torch.manual_seed(0)
        config = shapes(options.quick)
        return "\n".join((guided_steps(options, config), audioldm2(options, config), everyday(options)))

    return {"gpu": gpu} if options.quick or options.device.startswith("cuda") else {}
