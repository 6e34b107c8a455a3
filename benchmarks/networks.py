"""Networks by themselves, theirs and ours on the same weights and inputs."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from audiogen.config import AutoencoderConfig, UNetConfig, VocoderConfig
from audiogen.diffusion.conditioning import Conditioning
from audiogen.models.autoencoder import Autoencoder
from audiogen.models.hifigan import HifiGan
from audiogen.models.layers import pack
from audiogen.models.unet import Attended, UNet
from audiogen.train.config import everyday
from audiogen.train.convolution import hasten
from benchmarks import published
from benchmarks.measure import Options, Row, alternate, formats, rows, table
from benchmarks.spent import shares

CONFIGS = {
    "audioldm2": UNetConfig(transformers=(None, 0, 1), context_dims=(768, 1024)),
    "audioldm-s": UNetConfig(transformers=(None,), context_dims=(), film_dim=512),
    "auffusion": UNetConfig(in_channels=4, out_channels=4, channels=(320, 640, 1280, 1280), attention=(True, True, True, False)),
}


def same(ours: Callable[[], nn.Module], reference: nn.Module) -> Any:
    """Our module with the reference's weights (shared, not copied)."""
    with torch.device("meta"):
        module = ours()
    module.load_state_dict(reference.state_dict(), assign=True)
    return module.eval().requires_grad_(False)


def conditioning(family: str) -> tuple[dict[str, Tensor], Conditioning]:
    """A guided pair of texts, as diffusers' U-Net takes it and as ours does."""
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))

    if family == "audioldm-s":
        film = normal(2, 512)
        return {"encoder_hidden_states": None, "class_labels": film}, Conditioning(film=film)      # type: ignore[dict-item]
    if family == "auffusion":
        context = normal(2, 77, 768)
        return {"encoder_hidden_states": context}, Conditioning((context,), (None,))
    first, second = normal(2, 8, 768), normal(2, 12, 1024)
    mask = torch.arange(12) < torch.tensor([[3], [12]])
    return ({"encoder_hidden_states": first, "encoder_hidden_states_1": second, "encoder_attention_mask_1": mask},
            Conditioning((first, second), (None, mask)))


def converted(given: dict[str, Tensor], device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The tensors on a device, all but the masks in a format."""
    return {k: v if v is None else v.to(device) if v.dtype == torch.bool else v.to(device, dtype) for k, v in given.items()}


@torch.inference_mode()
def unet_runs(family: str, options: Options) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """Networks, and one guided evaluation of each (a batch of two) for 10.24 s."""
    config = CONFIGS[family]
    if options.quick:
        config = UNetConfig(**(vars(config) | {"channels": (64, 64, 64, 64)}))
    reference = published.drawn(published.unet, family, options.quick)
    ours = same(lambda: UNet(config), reference)
    given, cond = conditioning(family)
    size = (16, 16) if options.quick else published.LATENTS[family][1:]
    x = torch.randn(2, config.in_channels, *size, generator=torch.Generator().manual_seed(2))
    step, device = torch.tensor([481.0, 481.0], device=options.device), options.device

    def theirs_in(dtype: torch.dtype, layout: torch.memory_format) -> tuple[nn.Module, Callable[[], Tensor]]:
        net = reference if dtype == torch.float32 else copy.deepcopy(reference)
        net = net.to(device, dtype, memory_format=layout)
        inputs, noisy = converted(given, device, dtype), x.to(device, dtype, memory_format=layout)
        return net, lambda: net(noisy, step, **inputs).sample

    def ours_in(dtype: torch.dtype) -> tuple[nn.Module, Callable[[], Tensor]]:
        net = copy.deepcopy(ours).to(device, dtype)
        if device == "cpu":
            pack(net)
        else:
            net.to(memory_format=torch.channels_last)
        attended, noisy = Attended(cond.to(device, dtype)), x.to(device, dtype)
        return net, lambda: net(noisy, step, attended)

    runs = {"diffusers, float32": theirs_in(torch.float32, torch.contiguous_format), "audiogen, float32": ours_in(torch.float32)}
    if "bfloat16" in formats(options):
        runs |= {"diffusers, bfloat16, channels last": theirs_in(torch.bfloat16, torch.channels_last),
                 "audiogen, bfloat16": ours_in(torch.bfloat16)}
    return runs


@torch.inference_mode()
def unet_steps(family: str, options: Options) -> list[Row]:
    """The evaluations in turn, and how much their outputs differ."""
    runs = {name: run for name, (_, run) in unet_runs(family, options).items()}
    large = family == "auffusion" and not options.quick and options.device == "cpu"
    return rows(alternate(runs, replace(options, repeats=1 if large else options.repeats)), options)


@torch.inference_mode()
def decoders(options: Options) -> dict[str, list[Row]]:
    """From latents to mel and from mel to wave, 10.24 s, float32 on both sides."""
    frames = 64 if options.quick else 1024
    widths = (32, 32, 32) if options.quick else (128, 256, 512)
    device = options.device
    vae = published.drawn(published.autoencoder, options.quick).to(device)
    z = torch.randn(1, 8, frames // 4, 16, device=device)
    our_vae = same(lambda: Autoencoder(AutoencoderConfig(channels=widths)), vae)
    gan = published.drawn(published.vocoder, options.quick).to(device)
    mel = torch.randn(1, frames, 64, device=device) * 2 - 5
    our_gan = same(lambda: HifiGan(VocoderConfig(channels=64 if options.quick else 1024)), gan)
    if device == "cpu":
        pack(our_vae)
        pack(our_gan)
    images = {"diffusers": lambda: vae.decode(z).sample, "audiogen": lambda: our_vae.decode(z)}
    waves = {"transformers": lambda: gan(mel), "audiogen": lambda: our_gan(mel.transpose(1, 2))}
    few = replace(options, repeats=min(options.repeats, 2)) if device == "cpu" else options      # half a minute a round
    return {name: rows(alternate(runs, few), options) for name, runs in (("autoencoder", images), ("vocoder", waves))}


def training(options: Options) -> list[Row]:
    """Forward, backward and AdamW of the default model's U-Net, channels last, in the machine's quickest format on both sides.

    Both keep what they free, as `audiogen train` does, which helps diffusers' step, too.
    """
    from diffusers import UNet2DConditionModel
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from audiogen.memory import keep_freed

    keep_freed()
    channels = (32, 32, 64) if options.quick else everyday().model.unet.channels
    config = UNetConfig(
        in_channels=16, out_channels=16, channels=channels, attention=(False, True, True), heads=(8, 8, 8), layers_per_block=1,
        context_dims=(384,), film_dim=384, linear_projection=True)
    reference = UNet2DConditionModel(
        in_channels=16, out_channels=16, block_out_channels=channels, cross_attention_dim=384, layers_per_block=1,
        attention_head_dim=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
        class_embed_type="simple_projection", projection_class_embeddings_input_dim=384, class_embeddings_concat=True)
    ours = UNet(config)
    ours.load_state_dict(reference.state_dict())
    batch, length = (2, 16) if options.quick else (16, 64)
    z, noise = torch.randn(2, batch, 16, length, 8, device=options.device)
    context, step = torch.randn(batch, 12, 384, device=options.device), torch.arange(batch, device=options.device) * 50.0
    film = context.mean(dim=1)
    device, half = options.device.split(":")[0], "bfloat16" in formats(options)

    def stepper(net: nn.Module, ask: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        net.train().to(options.device, memory_format=torch.channels_last)
        if isinstance(net, UNet) and device == "cpu":
            hasten(net)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-9, fused=True)
        plain = [SDPBackend.MATH] if device == "cpu" and isinstance(net, UNet) else [*SDPBackend.__members__.values()][1:5]

        def run() -> Tensor:
            x = (z + noise).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16, enabled=half), sdpa_kernel(plain):
                loss = (ask(x).float() - noise).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()[None]

        return run

    kind = "bfloat16" if half else "float32"
    runs = {f"diffusers, {kind}": stepper(reference, lambda x: reference(x, step, context, class_labels=film).sample),
            f"audiogen, {kind}": stepper(ours, lambda x: ours(x, step, Conditioning((context,), (None,), film)))}
    twice = replace(options, repeats=2 * options.repeats)        # the first steps still ask the system for memory
    return rows(alternate(runs, twice), options)


def sections(options: Options) -> dict[str, Callable[[], str]]:
    """Each part of the report, by the names of --only."""
    def unet(family: str) -> str:
        return table(f"One guided U-Net step: {family}", "Batch of two, 10.24 s.", unet_steps(family, options))

    def decode() -> str:
        parts = decoders(options)
        return "\n".join(table(f"Latents to sound: {name}", "10.24 s, float32.", lines) for name, lines in parts.items())

    def spent() -> str:
        runs = unet_runs("audioldm2", options)
        pairs = [[name for name in runs if kind in name] for kind in formats(options)]
        lines = [line for pair in pairs for line in shares({name: runs[name] for name in pair}, options)]
        return table("Where a guided step of audioldm2 spends its time",
                     "Layers by kind; what ours adds or gates in the pass of a product is counted there.", lines)

    kind = "bfloat16 autocast" if "bfloat16" in formats(options) else "float32"
    parts = {**{family: partial(unet, family) for family in published.FAMILIES}, "decode": decode,
             "training": lambda: table(
                 "A training step", f"The default U-Net, 16 clips of 5 s; {kind}, channels last; both keep what they free.",
                 training(options))}
    return parts | {"spent": spent} if options.device == "cpu" else parts        # a GPU is still at work when a layer returns
