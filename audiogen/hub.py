"""Names of models to folders on this machine: short names, hub names, paths; and `load`."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audiogen.errors import AudiogenError, CheckpointError
from audiogen.files import PUBLISHED, SMALL, is_whole, needed, packaged

if TYPE_CHECKING:
    from audiogen.pipeline import Pipeline

DEFAULT = "everyday"


@dataclass(frozen=True)
class Known:
    """A model with a short name."""

    name: str
    repo: str | None                                             # on the hub; None: it comes with this package
    gigabytes: float                                             # of the files that are needed
    licence: str
    what: str


KNOWN = (
    Known(DEFAULT, None, 0.1, "CC-BY-SA-4.0", "everyday sounds, 16 kHz, made for a laptop; comes with audiogen"),
    Known("audioldm-s", "cvssp/audioldm-s-full-v2", 1.7, "CC-BY-NC-SA-4.0", "sounds and music"),
    Known("audioldm-m", "cvssp/audioldm-m-full", 2.6, "CC-BY-NC-SA-4.0", "sounds and music, larger"),
    Known("audioldm-l", "cvssp/audioldm-l-full", 3.9, "CC-BY-NC-SA-4.0", "sounds and music, largest"),
    Known("audioldm2", "cvssp/audioldm2", 4.5, "CC-BY-NC-SA-4.0", "sounds"),
    Known("audioldm2-large", "cvssp/audioldm2-large", 6.0, "CC-BY-NC-SA-4.0", "sounds, larger"),
    Known("audioldm2-music", "cvssp/audioldm2-music", 4.5, "CC-BY-NC-SA-4.0", "music"),
    Known("audioldm2-speech", "anhnct/audioldm2_gigaspeech", 3.6, "see its page", "speech (--say)"),
    Known("audioldm2-ljspeech", "anhnct/audioldm2_ljspeech", 3.6, "see its page", "speech of one voice (--say)"),
    Known("auffusion", "auffusion/auffusion", 4.4, "CC-BY-NC-SA-4.0", "sounds, trained on AudioCaps"),
    Known("auffusion-full", "auffusion/auffusion-full", 4.4, "CC-BY-NC-SA-4.0", "sounds, trained on more"),
    Known("auffusion-full-no-adapter", "auffusion/auffusion-full-no-adapter", 4.4, "CC-BY-NC-SA-4.0",
          "the same in Stable Diffusion's layout"),
    Known("musicldm", "ucsd-reach/musicldm", 2.0, "see its page", "music"),
)
SHORT = {k.name: k for k in KNOWN}


def resolve(name: str, tell: Callable[[str, float], None] = lambda repo, gigabytes: None) -> Path:
    """The folder of a model, downloaded first if it has to be (and may be: HF_HUB_OFFLINE forbids).

    `name` is a folder, a short name of `KNOWN`, or a hub name "owner/name". `tell` hears what is about to be fetched. Raises
    CheckpointError.
    """
    if name and Path(name).is_dir():
        return Path(name)
    if name in SHORT:
        repo = SHORT[name].repo
        folder = packaged(name)
        if folder is not None:
            return folder
        if repo is None:
            raise CheckpointError(f"The model '{name}' comes with audiogen, but is not in this installation; install it again.")
        return download(repo, tell)
    owner, slash, rest = name.partition("/")
    if slash and owner and rest and "/" not in rest and not name.startswith((".", "~", "/")):
        return download(name, tell)
    hint = _near(name, SHORT) or ": give a folder, a hub name or one of `audiogen models`."
    raise CheckpointError(f"There is no model '{name}'{hint}")


def _near(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: those that it may have meant; "" if none is like it."""
    close = difflib.get_close_matches(name, list(names), n=2, cutoff=0.5)
    return f": did you mean {' or '.join(close)}?" if close else ""


def cached(repo: str) -> Path | None:
    """The folder of a hub model that is already here whole, if it is."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in (*PUBLISHED, "config.json"):
        try:
            found = try_to_load_from_cache(repo, name)
        except HFValidationError:
            raise CheckpointError(f"'{repo}' is not a name of the hub (owner/name).") from None
        if isinstance(found, str):
            return Path(found).parent if is_whole(Path(found).parent) else None
    return None


def download(repo: str, tell: Callable[[str, float], None]) -> Path:
    """A hub model's needed files, from the cache or fetched there (resumed, with progress); raises CheckpointError."""
    folder = cached(repo)
    if folder is not None:
        return folder
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise CheckpointError(f"The model '{repo}' is not on this machine, and HF_HUB_OFFLINE forbids to fetch it.")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, logging

    logging.set_verbosity_error()
    try:
        sizes = {s.rfilename: s.size or 0 for s in HfApi().model_info(repo, timeout=20, files_metadata=True).siblings or []}
        names = needed(sizes)
        if not any(name in (*PUBLISHED, "config.json") for name in names):
            raise CheckpointError(f"'{repo}' on the hub is no model that is read here: it has no model_index.json.")
        tell(repo, sum(sizes[n] for n in names) / 1e9)
        disable_progress_bars()
        snapshot_download(repo, allow_patterns=[n for n in names if n.endswith(SMALL)])     # before any weights: `is_whole`
        if sys.stderr.isatty() and not HF_HUB_DISABLE_PROGRESS_BARS:
            enable_progress_bars()
        return Path(snapshot_download(repo, allow_patterns=names))
    except Exception as error:
        sentence = _refusal(repo, error)
        if sentence is None:
            raise
        raise CheckpointError(sentence) from error


def _refusal(repo: str, error: Exception) -> str | None:
    """Why a model cannot be fetched; None for what has nothing to do with the hub."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if isinstance(error.__cause__, HfHubHTTPError):              # wrapped as one about missing files
        error = error.__cause__
    if isinstance(error, GatedRepoError):
        return (f"The model '{repo}' is gated: accept its conditions at {_endpoint()}/{repo}, then log in with "
                "`hf auth login` (or set HF_TOKEN).")
    if isinstance(error, RepositoryNotFoundError):
        near = _near(repo, [k.repo or k.name for k in KNOWN]) or ": check the name, or log in with `hf auth login`."
        return f"There is no folder '{repo}' here, and the hub has no such model (or keeps it private){near}"
    if isinstance(error, HfHubHTTPError):
        return f"The hub does not give the model '{repo}' (HTTP {error.response.status_code}): try again later."
    transport = type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))       # one of them carries
    if transport or (isinstance(error, OSError) and error.errno is None) or isinstance(error, ConnectionError):
        reason = type(error.__cause__ or error).__name__
        return (f"The model '{repo}' is not on this machine and cannot be fetched ({reason}): connect to the "
                "network and run the same command again, or use --model everyday.")
    return None


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return ENDPOINT


def pick_device(name: str = "auto") -> str:
    """"auto" to the best device here; raises AudiogenError for one that is absent."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.split(":")[0]
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in here:
        raise AudiogenError(f"No device '{name}'; there are auto, cpu, cuda and mps.")
    if not here[kind]:
        raise AudiogenError(f"This machine has no usable {kind.upper()} device; use --device cpu.")
    return name


def pick_dtype(name: str, device: str) -> "torch.dtype":         # type: ignore[name-defined]  # noqa: F821
    """"auto": bfloat16 on a GPU, float32 elsewhere; raises AudiogenError for an unknown name."""
    import torch

    if name == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in kinds:
        raise AudiogenError(f"No number format '{name}'; there are auto, {', '.join(kinds)}.")
    return kinds[name]


def load(name: str = DEFAULT, device: str = "auto", dtype: str = "auto", once: bool = False) -> "Pipeline":
    """A model ready to generate.

    `name` as for `resolve`; device "auto", "cpu", "cuda" or "mps"; dtype "auto", "float32", "bfloat16" or "float16". `once` takes
    less memory where one prompt is made: networks are read when they are needed, and the text encoder goes before they run.
    Raises AudiogenError and its kinds.
    """
    folder = resolve(name)
    from audiogen.checkpoint import load_model
    from audiogen.pipeline import Pipeline

    device = pick_device(device)
    kind = pick_dtype(dtype, device)
    model = load_model(folder, device, kind)
    model.name = name
    assert model.text is not None                                # read first, while nothing else lies in memory
    if not once:
        model.read()
    return Pipeline(model, device, kind, once)
