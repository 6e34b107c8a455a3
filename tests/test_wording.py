"""The stage that teaches a sentence encoder other wordings: what it reads is what the U-Net reads, and it learns them."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from clips import NAMES
from conftest import normal
from sentences import changes, settings
from test_train import assert_same, in_two
from test_train import settings as towers

from audiogen.checkpoint import load_model, read_weights
from audiogen.cli.train import _stages
from audiogen.diffusion.conditioning import Conditioning
from audiogen.errors import ConfigError, DataError
from audiogen.models.bert import Bert
from audiogen.models.unet import Attention, ResBlock
from audiogen.train import state
from audiogen.train.build import build, wordings
from audiogen.train.config import TrainConfig, read_config
from audiogen.train.data import prepare
from audiogen.train.examples import Drawer
from audiogen.train.session import Session, run
from audiogen.train.stage import Machine, Stage
from audiogen.train.wording import Wordings, WordingStage

WORDS = "\n".join(("~ 0.2: ~ somewhere", "kind0: a tone|[UNK] tone|somewhere tone", "kind1: noise|a noise|noise noise",
                   "kind2: clicks|somewhere a clicks|clicks clicks", "kind3: a plucked tone|plucked|plucked plucked plucked"))
STEPS = 40


@pytest.fixture(scope="module")
def told(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The settings of a run of this stage."""
    words = tmp_path_factory.mktemp("words") / "words.txt"
    words.write_text(WORDS)
    return changes(encoder, f"data.words={words}", "data.words_rate=0.8", "data.mix=0.1", f"wording.steps={STEPS}",
                   "wording.batch=8", "wording.lr=3e-3", "wording.ema=0.9", "wording.held_out=0", "wording.hide=0",
                   "clap.steps=2", "save_every=15")


@pytest.fixture(scope="module")
def config(told: list[str]) -> TrainConfig:
    return read_config("tiny", None, told)


@pytest.fixture(scope="module")
def trained(data: Path, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    run(Session(data, out, ("clap", "wording")), config)
    return out


def stage_of(folder_: Path, config: TrainConfig, data: Path, tmp_path: Path) -> tuple[WordingStage, Wordings]:
    """The stage of a trained run, its teacher and its learner the encoders before and after; and what it draws."""
    dataset, _ = prepare(data, tmp_path / "cache", 16_000)
    stage = build("wording", folder_, config, Machine("cpu", torch.float32))
    assert isinstance(stage, WordingStage)
    draws, held = wordings(stage, folder_, Drawer(dataset, dataset.clips, config.data, "0:wording"))
    assert held is None
    return stage, draws


def test_a_padded_sentence_is_read_as_alone() -> None:
    torch.manual_seed(0)
    bert = Bert({"hidden_size": 24, "layer_norm_eps": 1e-12, "vocab_size": 40, "max_position_embeddings": 16,
                 "type_vocab_size": 2, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 2}).eval()
    ids, own = torch.randint(40, (2, 9)), torch.arange(9) < torch.tensor([[9], [5]])
    both = bert(ids, own)
    torch.testing.assert_close(both[:1], bert(ids[:1]))
    torch.testing.assert_close(both[1:, :5], bert(ids[1:, :5]))
    with torch.no_grad():
        unmasked = bert(ids)
    assert float((unmasked[1, :5] - both[1, :5].detach()).abs().max()) > 1e-3, "without the mask"


def test_it_reads_as_the_unet_does(trained: Path, config: TrainConfig, data: Path, tmp_path: Path) -> None:
    stage, _ = stage_of(trained, config, data, tmp_path)
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    unet, text = stage.unet, Conditioning((normal(2, 5, 24, seed=1),), (mask,), normal(2, 24, seed=2))
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}      # queries, and what the layer adds

    def looked(i: int, layer: Attention, inputs: tuple[torch.Tensor, ...], more: dict[str, torch.Tensor],
               out: torch.Tensor) -> None:
        seen[i] = layer.split(layer.to_q(inputs[0])).transpose(1, 2), out - more["plus"]

    for i, layer in enumerate(stage.layers):
        layer.register_forward_hook(partial(looked, i), with_kwargs=True)
    unet(normal(2, 16, 8, 4, seed=3), torch.full((2,), 500.0), text)
    assert len(seen) == len(stage.layers) > 1
    found = stage.answers(text, [seen[i][0] for i in range(len(seen))])
    for i, ours in enumerate(found):
        torch.testing.assert_close(ours, seen[i][1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], stage.answers(text.map(lambda x: x.flip(0)), [q for q, _ in seen.values()])[0], atol=1e-3)

    emb = unet.class_embedding(text.film)
    added = []
    for block in (m for m in unet.modules() if isinstance(m, ResBlock)):
        both = block.time_emb_proj(F.silu(torch.cat([torch.zeros_like(emb), emb], dim=1)))
        added.append(both - block.time_emb_proj.bias)
    torch.testing.assert_close(stage.filmed(text.film), torch.cat(added, dim=1))       # type: ignore[arg-type]


def test_captions_and_what_they_mean(data: Path, config: TrainConfig, tmp_path: Path) -> None:
    dataset, _ = prepare(data, tmp_path / "cache", 16_000)
    drawer = Drawer(dataset, dataset.clips, config.data, "0:wording")
    draws = Wordings(drawer, config.wording)
    assert draws.plain == {f"kind{i}": NAMES[i] for i in range(4)}
    drawn = draws.batch(3, range(600), 0.3)
    again = draws.batch(3, range(300, 600), 0.3)
    assert drawn.captions[300:] == again.captions
    assert drawn.meant is not None
    pairs = set(zip(drawn.captions, drawn.meant, strict=True))
    assert {("plucked", "a plucked tone"), ("", ""), ("noise somewhere", "noise somewhere")} <= pairs
    assert any(a.startswith("plucked and ") and b.startswith("a plucked tone and ") for a, b in pairs)
    assert not any(b in ("plucked", "a noise") for _, b in pairs), "a wording is no meaning"


def test_held_out_wordings_are_not_learnt(data: Path, config: TrainConfig, tmp_path: Path) -> None:
    dataset, _ = prepare(data, tmp_path / "cache", 16_000)
    drawer = Drawer(dataset, dataset.clips, config.data, "0:wording")
    half = replace(config.wording, held_out=0.5)
    learnt, held = Wordings(drawer, half), Wordings(drawer, half, held=True)
    shown = [{w for words in x.words.values() for w in words} for x in (learnt, held)]
    assert not shown[0] & shown[1]
    assert shown[0] | shown[1] == {"[UNK] tone", "somewhere tone", "a noise", "noise noise", "somewhere a clicks",
                                   "clicks clicks", "plucked", "plucked plucked plucked"}
    assert set(held.batch(0, range(4), 0.3).captions) <= shown[1]


def test_it_learns_what_wordings_mean(trained: Path, config: TrainConfig, data: Path, tmp_path: Path) -> None:
    stage, draws = stage_of(trained, config, data, tmp_path)
    texts = [(w, draws.plain[label], label) for label, words in draws.words.items() for w in words]
    words, meant, labels = (list(x) for x in zip(*texts, strict=True))
    keys = torch.arange(len(words))

    def apart(captions: list[str], encoder: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(sum(stage.apartness(stage.read(encoder, captions), meant, labels, keys).values()))

    before, after = stage.sentence.encoder, stage.modules["text"]
    assert apart(words, after) < 0.5 * apart(words, before)
    assert apart(meant, before) < 1e-6, "the teacher's own answers"
    assert apart(meant, after) < 0.5 * apart(words, before), "plain captions stay what they were"


def test_nothing_but_the_encoder_changes(trained: Path, data: Path, config: TrainConfig, tmp_path: Path) -> None:
    run(Session(data, tmp_path / "run", ("clap",)), config)
    for part in ("unet", "autoencoder", "vocoder", "clap"):
        assert_same(read_weights(trained / f"{part}.safetensors"), read_weights(tmp_path / "run" / f"{part}.safetensors"))
    before, after = (read_weights(x / "text" / "model.safetensors") for x in (tmp_path / "run", trained))
    assert_same(before, read_weights(trained / "text-before" / "model.safetensors"))
    changed = [k for k in after if not torch.equal(before[k], after[k])]
    assert changed
    assert all(k.startswith("encoder.layer.") for k in changed)
    assert load_model(trained).text.states("plucked").contexts[0].isfinite().all()


def test_it_is_resumed_to_the_bit(trained: Path, data: Path, config: TrainConfig, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    out, update = tmp_path / "run", Stage.update

    def stumble(self: Stage, parts: int) -> torch.Tensor:
        if self.name == "wording" and self.updates == 33:        # three steps after the last save
            raise MemoryError
        return update(self, parts)

    monkeypatch.setattr(Stage, "update", stumble)
    with pytest.raises(MemoryError):
        run(Session(data, out, ("clap", "wording")), config)
    monkeypatch.setattr(Stage, "update", update)
    run(Session(data, out, ("wording",), resume=True), config)
    ours, theirs = state.load(out, "wording"), state.load(trained, "wording")
    assert ours is not None
    assert theirs is not None
    assert_same(ours["stage"], theirs["stage"])
    assert_same(*(read_weights(x / "text" / "model.safetensors") for x in (out, trained)))


def test_two_processes_equal_one(data: Path, told: list[str], tmp_path: Path) -> None:
    in_two(tmp_path, data, "wording", [*told, "wording.steps=5"])
    for name, more in (("one", []), ("half", ["wording.batch=4"])):
        run(Session(data, tmp_path / name, ("wording",)), read_config("tiny", None, [*told, "wording.steps=5", *more]))
    learnt = (read_weights(tmp_path / n / "text" / "model.safetensors") for n in ("two", "one", "half"))
    two, one, half = (torch.cat([v.flatten().double() for _, v in sorted(weights.items())]) for weights in learnt)
    assert float((two - one).norm()) < 0.1 * float((half - one).norm()), "rounding, not another batch"


def test_what_cannot_be_taught(data: Path, config: TrainConfig, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set data\.words=FILE"):
        run(Session(data, tmp_path / "a", ("wording",)), settings(encoder))
    with pytest.raises(ConfigError, match=r"leave out --stage wording"):
        run(Session(data, tmp_path / "b", ("wording",)), towers())
    (tmp_path / "other.txt").write_text("kind9: something else")
    with pytest.raises(DataError, match=r"nothing for this stage to learn"):
        run(Session(data, tmp_path / "c", ("wording",)), settings(encoder, f"data.words={tmp_path / 'other.txt'}"))


def test_one_meaning_is_nothing_to_tell_apart(data: Path, encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("kind1: a noise|noise noise")
    with pytest.raises(DataError, match=r"nothing to tell apart"):
        run(Session(data, tmp_path / "run", ("wording",)), settings(encoder, f"data.words={tmp_path / 'words.txt'}"))


@pytest.mark.parametrize(("more", "last"), [
    ((), "diffusion"), (("data.words=x", "model.text.kind=clap"), "diffusion"), (("data.words=x",), "wording")])
def test_it_is_one_of_all_stages_where_it_can_be(encoder: Path, more: tuple[str, ...], last: str) -> None:
    found = _stages("all", settings(encoder, *more))
    assert found[-1] == last
    assert len(found) == 4 + (last == "wording")


def test_figures_of_held_out_wordings_are_told(data: Path, config: TrainConfig, tmp_path: Path) -> None:
    half = replace(config, wording=replace(config.wording, held_out=0.5, steps=2), validate_every=2)
    run(Session(data, tmp_path / "run", ("wording",)), half)
    rows = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    told = next(r for r in rows if "held_out_right" in r)
    assert 0 <= told["held_out_right"] <= 1
    assert told["held_out_loss"] > 0
