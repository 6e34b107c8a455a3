"""A new CLAP text tower in transformers' own format: a tokenizer learnt from the captions, and random weights."""

from pathlib import Path
from typing import Any

from torch import nn

from audiogen.train.config import ClapStageConfig

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]                      # RoBERTa's numbers: padding is 1
LONGEST = 64                                                     # tokens


def new_tower(captions: list[str], config: ClapStageConfig, folder: Path) -> nn.Module:
    """The tower, its configuration written into folder/text_encoder and its tokenizer into folder/tokenizer."""
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    tokenizer = new_tokenizer(captions, config.vocabulary)
    tokenizer.save_pretrained(folder / "tokenizer")
    made = ClapTextConfig(
        vocab_size=len(tokenizer), hidden_size=config.width, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        intermediate_size=4 * config.width, max_position_embeddings=LONGEST + 2, projection_dim=config.embedding,
        projection_hidden_act="relu", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=1)
    made.save_pretrained(folder / "text_encoder")
    return ClapTextModelWithProjection(made)


def new_tokenizer(captions: list[str], vocabulary: int) -> Any:
    """Byte-pair encoding of lower-cased captions."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = max(vocabulary, len(alphabet) + len(SPECIAL))
    core.train_from_iterator(captions, trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
                                   cls_token="<s>", sep_token="</s>", model_max_length=LONGEST)


def read_tower(folder: Path) -> tuple[nn.Module, Any]:
    """The tower with random weights, and its tokenizer, from what `new_tower` wrote."""
    from transformers import ClapTextConfig, ClapTextModelWithProjection, PreTrainedTokenizerFast

    made = ClapTextConfig.from_pretrained(folder / "text_encoder")
    return ClapTextModelWithProjection(made), PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
