"""Sounds that share structure, prompts or noise: the ends of each scale are plain generation, the middle is not."""

from dataclasses import replace

import pytest
import torch
from conftest import normal, redraw, relative, tiny
from torch import Tensor

from audiogen.config import UNetConfig
from audiogen.diffusion.attention_edit import Watched, cross, edited, inner, shared, weighted
from audiogen.diffusion.conditioning import Conditioning
from audiogen.edit.control import attention, between, blend, swap, vary
from audiogen.edit.paint import Order
from audiogen.errors import SettingsError
from audiogen.models.unet import UNet
from audiogen.settings import Settings
from audiogen.words import align, locate, read_weights, token_weights, tokens_of_words

FAST = Settings(steps=4, guidance=2.0, sampler="euler", duration=0.64)
ORDER = Order("a dog barks in rain", FAST, seed=3)


def plain(name: str, prompt: str, seed: int = 3) -> Tensor:
    return tiny(name).generate([prompt], FAST, [seed]).latents


@pytest.mark.parametrize("name", ["audioldm-tiny", "audioldm2-tiny"])
def test_a_swap_with_itself_is_plain_generation(name: str) -> None:
    made = swap(tiny(name), ORDER, ORDER.prompt)
    assert relative(made.latents[0], plain(name, ORDER.prompt)[0]) < 1e-4
    assert relative(made.latents[1], plain(name, ORDER.prompt)[0]) < 1e-4


@pytest.mark.parametrize("name", ["audioldm-tiny", "audioldm2-tiny"])
def test_a_swap_shares_nothing_if_it_is_told_so(name: str) -> None:
    other = "a dog barks in wind"
    apart = swap(tiny(name), ORDER, other, cross=0, inner=0)
    assert relative(apart.latents[1], plain(name, other)[0]) < 1e-4
    assert relative(apart.latents[0], plain(name, ORDER.prompt)[0]) < 1e-4
    together = swap(tiny(name), ORDER, other, cross=1, inner=1)
    assert relative(together.latents[0], apart.latents[0]) < 1e-4          # the first leads
    assert relative(together.latents[1], apart.latents[1]) > 1e-5          # the second follows
    assert relative(together.latents[1], apart.latents[0]) > 1e-4          # with words of its own


def test_words_that_cannot_be_aligned() -> None:
    with pytest.raises(SettingsError, match="no word in common"):
        swap(tiny("audioldm2-tiny"), ORDER, "thunder")
    with pytest.raises(SettingsError, match="timeline cannot"):
        swap(tiny("audioldm2-tiny"), replace(ORDER, settings=replace(FAST, timeline=True)), "rain")


def small_unet() -> UNet:
    config = UNetConfig(2, 2, (8, 16), (True, True), (2, 2), 1, transformers=(0,), context_dims=(12,), groups=4)
    net = UNet(config)
    redraw(net, std=0.3)
    return net.requires_grad_(False)


def test_following_attention_is_the_leaders() -> None:
    """The attention that the second item uses is the first's, column by column as the map says."""
    net = small_unet()
    p = torch.rand(4, 2, 6, 3, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    matrix = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 1.0, 0]])           # token 1 stands for token 2, token 2 is new

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.extend(layer.edit(p) if layer.edit else p for _, layer in cross(net))
        seen.extend(layer.edit(p) if layer.edit else p for layer in inner(net))
        return x

    lead = shared(denoise, net, {0: matrix}, cross_until=1.0, self_until=2.0)
    lead(p, torch.tensor(3.0))
    count = len(list(cross(net)))
    used = seen[0]
    assert torch.equal(used[:3], p[:3])
    assert torch.equal(used[3, ..., 0], p[2, ..., 0])
    assert torch.equal(used[3, ..., 1], p[2, ..., 2])
    assert torch.equal(used[3, ..., 2], p[3, ..., 2])
    assert torch.equal(seen[count], torch.cat([p[:3], p[2:3]]))
    for level, changed in ((1.5, (True, False)), (0.5, (False, False))):   # later steps are the second's own
        seen.clear()
        lead(p, torch.tensor(level))
        assert (not torch.equal(seen[0], p), not torch.equal(seen[count], p)) == changed
    assert all(layer.edit is None for _, layer in cross(net))


def test_weights_of_one_and_zero() -> None:
    net, x = small_unet(), normal(1, 2, 8, 4)
    tokens = normal(1, 4, 12, seed=1)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return net(x, torch.tensor([10.0]), Conditioning((tokens,), (None,)))

    sigma, before = torch.tensor(1.0), net(x, torch.tensor([10.0]), Conditioning((tokens,), (None,)))
    one = weighted(denoise, net, 0, torch.ones(1, 4))(x, sigma)
    assert relative(one, before) < 1e-5
    strong = weighted(denoise, net, 0, torch.tensor([[1.0, 3, 1, 1]]))(x, sigma)
    assert relative(strong, before) > 1e-3
    assert relative(weighted(denoise, net, 1, torch.full((1, 4), 3.0))(x, sigma), before) < 1e-6    # another context
    none = weighted(denoise, net, 0, torch.zeros(1, 4))(x, sigma)
    for _, layer in cross(net):
        layer.to_out[0].weight.data.zero_()                      # nothing is heard: only the bias is left
    assert relative(none, denoise(x, sigma)) < 1e-5


def test_edits_follow_each_other() -> None:
    _, layer = next(cross(small_unet()))
    with edited(layer, lambda p: p + 1), edited(layer, lambda p: p * 2):
        assert layer.edit is not None
        assert layer.edit(torch.ones(1)) == 4
    assert layer.edit is None


def test_weights_in_a_prompt() -> None:
    told = read_weights("a (loud: 1.6) bell (and far:.5)")
    assert told.prompt == "a loud bell and far"
    assert [told.prompt[a:b] for a, b, _ in told.places] == ["loud", "and far"]
    assert token_weights(told, ["<s>", "a", "lo", "##ud", "bell", "and", "far", "</s>"]) == [1, 1, 1.6, 1.6, 1, 0.5, 0.5, 1]
    assert read_weights("rain (heavy) at 10:30").prompt == "rain (heavy) at 10:30"
    with pytest.raises(SettingsError, match=r"'\(loud:99\)' \(character 3 of the prompt\) is out of range"):
        read_weights("a (loud:99) bell")
    with pytest.raises(SettingsError, match="'far' have a weight, but"):
        token_weights(read_weights("a bell (far:2)"), ["a", "bell"])


def test_weights_reach_the_sound() -> None:
    pipe = tiny("audioldm2-tiny")
    one = plain("audioldm2-tiny", "a dog barks")
    assert torch.equal(plain("audioldm2-tiny", "a (dog:1) barks"), one)
    assert relative(plain("audioldm2-tiny", "a (dog:4) barks"), one) > 1e-4
    batch = pipe.generate(["a dog barks", "a (dog:4) barks"], FAST, [3, 3]).latents
    assert relative(batch[0], one[0]) < 1e-4
    assert relative(batch[1], plain("audioldm2-tiny", "a (dog:4) barks")[0]) < 1e-4
    with pytest.raises(SettingsError, match="sees a prompt as a whole"):
        plain("audioldm-tiny", "a (dog:4) barks")


def test_tokens_are_found_in_the_prompt() -> None:
    found = locate(["[CLS]", "caf\u00e9", "##s", ",", "two", "[SEP]"], "Caf\u00e9s, two")
    assert found == [None, (0, 4), (4, 5), (5, 6), (7, 10), None]


def test_alignment_of_words() -> None:
    a, b = ["<s>", "a", "dog", "barks", "</s>"], ["<s>", "a", "heli", "copter", "barks", "loudly", "</s>"]
    matrix = torch.tensor(align("a dog barks", "a helicopter barks loudly", a, b, (8, 8)))
    expected = torch.zeros(8, 8)
    for i, j in ((0, 0), (1, 1), (2, 2), (2, 3), (3, 4), (4, 6), (5, 7)):  # "loudly" is new, padding follows in order
        expected[i, j] = 1
    assert torch.equal(matrix, expected)
    same = torch.tensor(align("a dog barks", "a dog barks", a, a, (8, 8)))
    assert torch.equal(same, torch.eye(8))


def test_blends_end_at_their_prompts() -> None:
    name = "audioldm2-tiny"
    one, two = plain(name, ORDER.prompt), plain(name, "thunder", 9)
    assert torch.equal(blend(tiny(name), ORDER, "thunder", 0.0, 9).latents, one)
    assert torch.equal(blend(tiny(name), ORDER, "thunder", 1.0, 9).latents, two)
    loop = replace(ORDER, settings=replace(ORDER.settings, loop=True))
    assert torch.equal(blend(tiny(name), loop, "thunder", 0.0).latents,
                       tiny(name).generate([ORDER.prompt], loop.settings, [ORDER.seed]).latents)
    half = blend(tiny(name), ORDER, "thunder", 0.5).latents
    assert relative(half, one) > 1e-4
    assert relative(half, plain(name, "thunder")) > 1e-4
    assert relative(blend(tiny(name), ORDER, ORDER.prompt, 0.5).latents, one) < 1e-5
    with pytest.raises(SettingsError, match="out of range"):
        blend(tiny(name), ORDER, "thunder", 1.2)


def test_variations_turn_the_noise() -> None:
    name = "audioldm2-tiny"
    one, other = plain(name, ORDER.prompt), plain(name, ORDER.prompt, 8)
    distances = [relative(vary(tiny(name), ORDER, 8, amount).latents, one) for amount in (0.0, 0.1, 0.4, 1.0)]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert torch.equal(vary(tiny(name), ORDER, 8, 1.0).latents, other)
    mixed = between(lambda: normal(100_000), lambda: normal(100_000, seed=1), 0.3)()
    assert abs(float(mixed.std()) - 1) < 0.01
    assert abs(float(torch.lerp(normal(100_000), normal(100_000, seed=1), 0.3).std()) - 1) > 0.2


def test_attention_maps() -> None:
    made, words = attention(tiny("audioldm2-tiny"), Order("a (dog:1) barks", FAST, 3))
    assert torch.equal(made.latents, plain("audioldm2-tiny", "a dog barks"))         # to look on changes nothing
    assert [w.word for w in words] == ["a", "dog", "barks"]
    assert words[0].map.shape == made.latents.shape[2:][::-1]    # (m, t)
    total = torch.stack([w.map for w in words]).sum(dim=0)
    assert 0.1 < float(total.min()) <= float(total.max()) < 1    # the rest is that of the token at the end
    assert relative(words[0].map, words[1].map) > 1e-4
    with pytest.raises(SettingsError, match="sees a prompt as a whole"):
        attention(tiny("audioldm-tiny"), ORDER)


@pytest.mark.parametrize("name", ["audioldm2-tiny", "auffusion-tiny"])
def test_attention_is_of_words(name: str) -> None:
    """A word has what its tokens have together; punctuation and special tokens have no map."""
    text = "A dog-house, \u2014 in the thunderstorm!"
    tokens = tiny(name).model.text.tokens(text)
    words = tokens_of_words(tokens, text)
    assert [w for w, _ in words] == ["A", "dog-house", "in", "the", "thunderstorm"]
    assert max(len(t) for _, t in words) > 1
    used = [t for _, carriers in words for t in carriers]
    assert len(set(used)) == len(used) < len(tokens)
    for word, carriers in words:
        assert "".join(tokens[t] for t in carriers).lower() == word.lower()
    with pytest.raises(SettingsError, match="holds no words"):
        attention(tiny(name), replace(ORDER, prompt="?!"))


def test_watching_finds_where_a_position_looks() -> None:
    net, x = small_unet(), normal(1, 2, 8, 4)
    for _, layer in cross(net):
        layer.to_q.weight.data.zero_()                           # every position looks at all tokens alike
    tokens = normal(1, 4, 12, seed=1)
    watched = Watched(lambda x, s: net(x, torch.tensor([10.0]), Conditioning((tokens,), (None,))), net, 0)
    watched(x, torch.tensor(1.0))
    assert relative(watched.maps(), torch.full((8, 4, 4), 0.25)) < 1e-5


@pytest.mark.parametrize("guided", [False, True])
def test_maps_add_up_to_one_and_a_masked_token_has_none(guided: bool) -> None:
    net, x = small_unet(), normal(1, 2, 8, 4)
    rows = 2 if guided else 1
    tokens, mask = normal(rows, 4, 12, seed=1), torch.ones(rows, 4, dtype=torch.bool)
    mask[-1, 3] = False
    context = Conditioning((tokens,), (mask,))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return net(x.expand(rows, -1, -1, -1), torch.full((rows,), 10.0), context)

    watched = Watched(denoise, net, 0)
    assert torch.equal(watched(x, torch.tensor(1.0)), denoise(x, torch.tensor(1.0)))
    maps = watched.maps()
    assert relative(maps.sum(dim=-1), torch.ones(8, 4)) < 1e-5
    assert float(maps[..., 3].max()) == 0
    assert float((maps[..., :3].sum(dim=-1) - maps[..., 0]).min()) > 0.01
    assert relative(maps[..., :2].sum(dim=-1), torch.ones(8, 4)) > 0.05                 # without a token they do not
    watched(x * 5, torch.tensor(1.0))
    assert relative(watched.maps(), maps) > 1e-3                 # and they are those of what was denoised
