"""Names of models to folders on this machine: short names, hub names, paths; and `load`."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audiogen.errors import AudiogenError, CheckpointError

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
NEEDED = ["*.json", "*.txt", "*.model", "*.safetensors", "vocoder/vocoder.pt", "*/condition_adapter.pt"]


def packaged(name: str) -> Path | None:
    """The folder of a model that comes with the package (in an installation or in a checkout), if it does."""
    here = Path(__file__).resolve().parent
    folders = (here / "checkpoints" / name, here.parent / "checkpoints" / name)
    return next((f for f in folders if (f / "config.json").exists()), None)


def resolve(name: str) -> Path:
    """The folder of a model, downloaded first if it has to be (and may be: HF_HUB_OFFLINE forbids).

    `name` is a folder, a short name of `KNOWN`, or a hub name "owner/name". Raises CheckpointError.
    """
    if Path(name).is_dir():
        return Path(name)
    if name in SHORT:
        repo = SHORT[name].repo
        folder = packaged(name)
        if folder is not None:
            return folder
        if repo is None:
            raise CheckpointError(f"The model '{name}' comes with audiogen, but is not in this installation; install it again.")
        return download(repo)
    owner, slash, rest = name.partition("/")
    if slash and owner and rest and "/" not in rest and not name.startswith((".", "~", "/")):
        return download(name)
    close = difflib.get_close_matches(name, SHORT, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "give a folder, a hub name or one of `audiogen models`."
    raise CheckpointError(f"There is no model '{name}': {hint}")


def cached(repo: str) -> Path | None:
    """The folder of a hub model that is already here whole, if it is."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None
    return folder if _looks_whole(folder) else None


def _looks_whole(folder: Path) -> bool:
    weights = [*folder.glob("unet/*.safetensors"), *folder.glob("unet/*.bin"), *folder.glob("unet.safetensors")]
    return bool(weights) and not list(folder.rglob("*.incomplete"))


def download(repo: str) -> Path:
    """A hub model's needed files, from the cache or fetched there (resumed, with progress); raises CheckpointError."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = cached(repo)
        if folder is not None:
            return folder
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise CheckpointError(f"The model '{repo}' is not on this machine, and HF_HUB_OFFLINE forbids to fetch it.")
        names = [s.rfilename for s in HfApi().model_info(repo, timeout=20).siblings or []]
        twins = {n.rsplit("/", 1)[0] for n in names if n.endswith(".safetensors")}
        plain = [n for n in names if n.endswith(".bin") and n.rsplit("/", 1)[0] not in twins]       # no safer twin
        return Path(snapshot_download(repo, allow_patterns=[*NEEDED, *plain]))
    except HFValidationError:
        raise CheckpointError(f"'{repo}' is not a name of the hub (owner/name).") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise CheckpointError(f"The hub does not give the model '{repo}' (HTTP {status}); check the name, or log in.") from None
    except Exception as error:
        transport = type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))   # one of them carries
        if not transport and not isinstance(error, OSError):
            raise
        raise CheckpointError(f"The model '{repo}' is not on this machine and cannot be fetched ({type(error).__name__}): "
                              "connect to the network, or use --model everyday.") from None


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


def load(name: str = DEFAULT, device: str = "auto", dtype: str = "auto") -> "Pipeline":
    """A model ready to generate.

    `name` as for `resolve`; device "auto", "cpu", "cuda" or "mps"; dtype "auto", "float32", "bfloat16" or "float16".
    Raises AudiogenError and its kinds.
    """
    folder = resolve(name)
    from audiogen.checkpoint import load_model
    from audiogen.pipeline import Pipeline

    device = pick_device(device)
    kind = pick_dtype(dtype, device)
    model = load_model(folder, device, kind)
    model.name = name
    return Pipeline(model, device, kind)
