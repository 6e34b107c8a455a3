"""The sentence encoder against transformers' BERT on random weights."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from audiogen.errors import CheckpointError
from audiogen.sentence import load_sentence

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "dog", "barks", "rain", "on", "roof"]


@pytest.fixture(scope="module")
def reference() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40,
                        max_position_embeddings=16, layer_norm_eps=1e-12)
    model = BertModel(config, add_pooling_layer=False).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


@pytest.fixture
def folder(tmp_path: Path, reference: BertModel) -> Path:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps(reference.config.to_dict()))
    return tmp_path


def test_states_equal_the_reference(folder: Path, reference: BertModel) -> None:
    sentence = load_sentence(folder, 8, reference.state_dict(), "cpu", torch.float32)
    cond, uncond = sentence.encode("a dog barks", None, guided=True)
    with torch.no_grad():
        expected = reference(torch.tensor([[1, 4, 5, 6, 2]])).last_hidden_state
        other = reference(torch.tensor([[1, 4, 7, 6, 2]])).last_hidden_state
    torch.testing.assert_close(cond.contexts[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cond.film, expected.mean(dim=1), rtol=1e-5, atol=1e-5)
    assert uncond is not None
    assert uncond.contexts[0].shape == (1, 2, 24)
    assert (cond.contexts[0] - other).norm() / expected.norm() > 3e-3          # another word is told apart


def test_a_long_prompt_is_cut_and_said(folder: Path, reference: BertModel) -> None:
    sentence = load_sentence(folder, 5, reference.state_dict(), "cpu", torch.float32)
    assert sentence.excess("a dog barks") == ""
    assert sentence.excess("a dog barks on a roof") == "on a roof"
    assert sentence.ids("a dog barks on a roof") == [1, 4, 5, 6, 2]
    assert sentence.tokens("a dog") [1:-1] == ["a", "dog"]


def test_weights_that_do_not_fit_are_named(folder: Path, reference: BertModel) -> None:
    state = dict(reference.state_dict())
    state.pop("encoder.layer.1.output.dense.bias")
    with pytest.raises(CheckpointError, match=r"layer\.1\.output\.dense\.bias"):
        load_sentence(folder, 8, state, "cpu", torch.float32)


def test_many_sentences_at_once_equal_each_alone(folder: Path, reference: BertModel) -> None:
    sentence = load_sentence(folder, 8, reference.state_dict(), "cpu", torch.float32)
    texts = ["a dog", "rain on a roof", "", "a roof", "a dog barks"]
    for text, many in zip(texts, sentence.together(texts), strict=True):
        alone = sentence.states(text)
        assert torch.allclose(many.contexts[0], alone.contexts[0], atol=1e-5)
        assert many.contexts[0].shape == alone.contexts[0].shape
        assert torch.allclose(many.film, alone.film, atol=1e-5)
