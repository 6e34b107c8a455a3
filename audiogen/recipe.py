"""What makes a sound: as a batch is asked for it, as its file carries it, and what that file is called."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from audiogen import __version__
from audiogen.errors import AudioError, SettingsError
from audiogen.settings import Settings, check_prompt, settings_of
from audiogen.timeline import read_timeline
from audiogen.words import read_weights

RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com\d|lpt\d)(\..*)?", re.IGNORECASE)   # devices, on Windows
STEM_BYTES = 100                                                 # of a name in UTF-8; some file systems end at 143
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Recipe:
    """All that a sound depends on: the same recipe makes the same sound."""

    prompt: str
    seed: int
    settings: Settings
    model: str
    dtype: str = "auto"
    negative: str | None = None
    say: str | None = None                                       # the words, for models that speak
    draft: int | None = None                                     # which of the drafts went on; None: there is one, or none yet

    def check(self, bare: bool = False) -> "Recipe":
        """The same; raises SettingsError for what cannot be meant, among it an empty prompt, unless it is for a `bare` one."""
        for what, text in (("prompt", self.prompt), ("negative prompt", self.negative), ("text to say", self.say)):
            if text is not None and not _encodable(text):
                raise SettingsError(f"The {what} holds bytes that are not UTF-8 text.")
        if not 0 <= self.seed <= MAX_SEED:
            raise SettingsError(f"A seed of {self.seed} is out of range; give 0 to 2^63 - 1.")
        self.settings.check()
        prompt = self.prompt if bare else check_prompt(self.prompt)
        for part in [s.prompt for s in read_timeline(prompt)] if self.settings.timeline else [prompt]:
            read_weights(part)
        return self

    def of(self, seed: int) -> "Recipe":
        """The same with this seed, whose drafts, if it is another, have yet to be compared."""
        return self if seed == self.seed else replace(self, seed=seed, draft=None)

    def as_dict(self) -> dict[str, Any]:
        """For a tag or a script."""
        return {"prompt": self.prompt, "negative": self.negative, "say": self.say, "seed": self.seed,
                **({} if self.draft is None else {"draft": self.draft}),
                **self.settings.as_dict(), "model": self.model, "dtype": self.dtype, "audiogen": __version__}


def recipe_of(data: dict[str, Any], where: str) -> Recipe:
    """The recipe in a sound's tag; raises AudioError for one that `generate` did not write."""
    if data.get("command", "generate") != "generate":
        raise AudioError(f"{where} was made by `audiogen {data['command']}`, and cannot be made again from it.")
    try:
        settings = settings_of({"drafts": 1, "slow": 1.0} | data)          # as before there were any
        draft = int(data["draft"]) if "draft" in data else None
        return Recipe(str(data["prompt"]), int(data["seed"]), settings, str(data["model"]), str(data.get("dtype", "auto")),
                      data.get("negative"), data.get("say"), draft).check()
    except (KeyError, TypeError, ValueError):
        raise AudioError(f"{where} holds a recipe that this version of audiogen cannot read.") from None


def derive_seed(seed: int, item: str) -> int:
    """An item's own seed, of 32 bits, from that of the whole list."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{item}".encode(), digest_size=4).digest(), "big")


def draft_seed(seed: int, draft: int) -> int:
    """The seed of a draft's noise: of the first one the sound's own."""
    return derive_seed(seed, f"draft {draft}") if draft else seed


def slug(text: str, limit: int = 60) -> str:
    """`text` as a part of a file name: letters and digits of any script, lower case, hyphens; "" if none is left."""
    plain = unicodedata.normalize("NFKC", text).lower()
    words = "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in plain).split()
    return cut("-".join(words), limit).strip("-")


def cut(text: str, limit: int) -> str:
    """The beginning of `text`: at most `limit` characters, and STEM_BYTES bytes."""
    return unicodedata.normalize("NFC", text)[:limit].encode()[:STEM_BYTES].decode(errors="ignore")


def stem(prompt: str, seed: int) -> str:
    """The name of a sound, after its prompt and seed."""
    return f"{slug(prompt) or 'sound'}-{seed}"


def safe_id(name: str) -> str:
    """`name` itself where every file system can hold it; else its likeness and a digest of it all."""
    likeness = cut(re.sub(r"[^\w.\- ]", "_", name), 60).strip(" .")
    if likeness == name and not name.startswith("-") and not RESERVED.fullmatch(name):
        return name
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{likeness.strip(' ._-')}_{digest}".lstrip("_")


def _encodable(text: str) -> bool:
    try:
        return "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False


def items(prompts: Sequence[str] | str, negatives: Sequence[str | None] | str | None, says: Sequence[str | None] | str | None,
          seeds: Sequence[int] | None, seed: int, count: int) -> tuple[list[str], list[str | None], list[str | None], list[int]]:
    """Prompt, negative, words and seed of each item; a single text is that of each prompt. Raises SettingsError."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    texts: list[list[str | None]] = [
        [given] * len(prompts) if given is None or isinstance(given, str) else list(given) for given in (negatives, says)]
    if seeds is not None and (seed or count != 1):
        raise SettingsError("Give seeds, one for each prompt, or seed and count.")
    if count < 1:
        raise SettingsError(f"A count of {count} is out of range; give 1 or more.")
    seeds = [seed + k for _ in prompts for k in range(count)] if seeds is None else list(seeds)
    if not len(prompts) * count == len(seeds) == len(texts[0]) * count == len(texts[1]) * count:
        raise SettingsError(f"{len(prompts)} prompts need as many seeds, negatives and words, not "
                            f"{len(seeds)}, {len(texts[0])} and {len(texts[1])}.")
    if not all(0 <= s <= MAX_SEED for s in seeds):
        raise SettingsError("A seed is out of range; give 0 to 2^63 - 1.")
    own = [i for i in range(len(prompts)) for _ in range(count)]                 # which prompt each item has
    return [prompts[i] for i in own], [texts[0][i] for i in own], [texts[1][i] for i in own], seeds
