"""A small sentence encoder for the tests of training, and the settings of a model that has one."""

import json
from pathlib import Path

import torch
from test_train import SMALL
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from audiogen.checkpoint import save_weights
from audiogen.train.config import TrainConfig, read_config

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "tone", "noise", "clicks", "plucked", "somewhere"]
STEPS = 60                                                       # of CLAP


def sentence_encoder(home: Path) -> Path:
    """An encoder with random weights, in a folder."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.save(str(home / "tokenizer.json"))
    config = BertConfig(vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=40,
                        max_position_embeddings=16)
    (home / "config.json").write_text(json.dumps(config.to_dict()))
    save_weights(home / "model.safetensors", BertModel(config, add_pooling_layer=False).state_dict())
    return home


def changes(encoder: Path, *more: str) -> list[str]:
    """What makes the preset tiny a small model beside a sentence encoder."""
    return [*SMALL, f"text={encoder}", "model.text.kind=sentence", 'model.text.parts=["."]', 'model.text.tokenizers=["."]',
            "model.unet.transformers=[0]", "model.unet.context_dims=[24]", "model.unet.film_dim=24", "data.mix=0",
            f"clap.steps={STEPS}", "clap.batch=8", "clap.lr=3e-3", "clap.ema=0.9", "save_every=25", "validate_every=30", *more]


def settings(encoder: Path, *more: str) -> TrainConfig:
    return read_config("tiny", None, changes(encoder, *more))


