"""Published encoders and tokenizers, read strictly; the one home of transformers, which is imported late: it takes seconds."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from audiogen.config import read_json
from audiogen.errors import CheckpointError

COUNTERS = ("position_ids", "token_type_ids")                    # 0, 1, 2, ...: some releases store them, some do not
ReadWeights = Callable[[Path], dict[str, Tensor]]                # a folder's state dictionary


def load_tokenizer(folder: Path) -> Any:
    """A tokenizer from a local folder."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: no tokenizer can be read there ({str(error).splitlines()[0]}).") from None


def load_transformer(folder: Path, cls: str, read: ReadWeights) -> Any:
    """A transformers model, its weights read by `read` and fitted strictly; raises CheckpointError."""
    import transformers
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")   # of names that other versions lack
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    data = read_json(folder / "config.json")
    if data.get("model_type") == "clap" and cls == "ClapTextModelWithProjection":
        data = {**data["text_config"], "projection_dim": data["projection_dim"]}       # the text half of both
        data["projection_hidden_act"] = data.get("projection_hidden_act", "relu")
    kind = getattr(transformers, cls)
    config = kind.config_class.from_dict(data)
    state = {k: v for k, v in read(folder).items() if not _unused(k, cls)}
    dtype = next((v.dtype for v in state.values() if v.is_floating_point()), None)     # as read: nothing is widened
    try:
        model, info = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True,
                                           ignore_mismatched_sizes=True)               # they are told below
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not fit {cls}: {str(error).splitlines()[0]}") from None
    faults = {"missing": "missing_keys", "unexpected": "unexpected_keys", "of the wrong shape": "mismatched_keys"}
    found = {k: [v if isinstance(v, str) else v[0] for v in info[name]] for k, name in faults.items()}
    counted = {k: [v for v in vs if not v.endswith(COUNTERS)] for k, vs in found.items()}
    told = [f"{len(v)} {k} (first: {min(v)})" for k, v in counted.items() if v]
    if told:
        raise CheckpointError(f"{folder} does not fit {cls}: weights {'; '.join(told)}.")
    return model


def empty_cache() -> Any:
    """What a language model remembers of earlier positions, and fills as it goes: the second argument of its `forward`,
    whose name changes between releases.
    """
    from transformers import DynamicCache

    return DynamicCache()


def _unused(key: str, cls: str) -> bool:
    """Weights that published folders hold and this class has no use for."""
    if cls == "ClapTextModelWithProjection":
        return key.startswith(("audio_model.", "audio_projection.", "logit_scale"))
    return key == "lm_head.weight" or key.endswith(".attn.masked_bias")     # older releases stored this constant


def architecture(folder: Path) -> str:
    """The class of the text encoder in a folder; raises CheckpointError for one that is not known."""
    name = (read_json(folder / "config.json").get("architectures") or ["?"])[0]
    known = ("CLIPTextModel", "T5EncoderModel", "ClapTextModelWithProjection")
    if name not in known:
        raise CheckpointError(f"{folder}: text encoder {name} is not one of {', '.join(known)}.")
    return name
