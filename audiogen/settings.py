"""The settings of a generation: checked before anything heavy is loaded, stored with the sound."""

import difflib
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from audiogen.config import DefaultsConfig
from audiogen.errors import SettingsError

SAMPLERS = ("ddim", "ddpm", "pndm", "euler", "euler-a", "heun", "dpmpp-2m", "dpmpp-2m-sde", "unipc")
MAX_DURATION = 3600.0                                            # seconds
MAX_DRAFTS = 100


@dataclass(frozen=True)
class Settings:
    """How a sound is made. None means the model's own default; `with_defaults` fills it in."""

    duration: float | None = None                                # seconds
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    interval: tuple[float, float] | None = None                  # noise levels sigma, from - to, at which guidance acts
    rescale: float = 0.0                                         # of guidance, 0-1
    slow: float | None = None                                    # share of guidance, 0-1, that acts on what hardly changes
    eta: float = 0.0                                             # noise put back by ddim, 0-1
    karras: bool | None = None                                   # Karras et al.'s spacing of noise levels
    loop: bool = False                                           # the sound repeats without a seam
    timeline: bool = False                                       # the prompt is a timeline, "0-6: rain; 6-9: thunder"
    drafts: int | None = None                                    # beginnings that are tried until one fits the prompt

    def with_defaults(self, defaults: DefaultsConfig) -> "Settings":
        """Every setting decided. A sampler that was named walks its own grid, unless --karras was, too."""
        names = ("duration", "steps", "guidance", "interval", "slow", "sampler", "drafts")
        given = {k: getattr(defaults, k) for k in names if getattr(self, k) is None}
        karras = self.karras if self.karras is not None else self.sampler is None and defaults.karras
        return replace(self, **given, karras=karras)

    @property
    def guided(self) -> tuple[float, float] | None:
        """The noise levels from which to which guidance acts, of settings that are settled; None: at all, or never."""
        return self.interval if self.guidance is not None and self.guidance > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """For a manifest or a tag."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}    # as JSON gives it back

    def check(self) -> "Settings":
        """Raises SettingsError for what cannot be meant."""
        if self.duration is not None and not (math.isfinite(self.duration) and 0 < self.duration <= MAX_DURATION):
            raise SettingsError(f"A duration of {self.duration:g} s cannot be made; give above 0 and at most {MAX_DURATION:g}.")
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise SettingsError(f"{self.steps} steps cannot be made; give 1 to 1000.")
        if self.guidance is not None and not (math.isfinite(self.guidance) and 1 <= self.guidance <= 100):
            raise SettingsError(f"A guidance of {self.guidance:g} is out of range; give 1 (none) to 100.")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            low, high = self.interval
            raise SettingsError(f"Guidance cannot act from noise level {low:g} to {high:g}; give two like 0.3-8.")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            close = difflib.get_close_matches(self.sampler, SAMPLERS, n=1)
            hint = f"did you mean '{close[0]}'? There are" if close else "there are"
            raise SettingsError(f"No sampler '{self.sampler}': {hint} {', '.join(SAMPLERS)}.")
        if self.drafts is not None and not 1 <= self.drafts <= MAX_DRAFTS:
            raise SettingsError(f"{self.drafts} drafts cannot be made; give 1 to {MAX_DRAFTS}.")
        for name, value in (("rescale", self.rescale), ("eta", self.eta), ("slow", self.slow)):
            if value is not None and not 0 <= value <= 1:
                raise SettingsError(f"{name} {value:g} is out of range; give 0 to 1.")
        return self


def settings_of(data: dict[str, Any]) -> Settings:
    """The settings in a stored recipe, whatever else stands in it."""
    known = {f.name: data[f.name] for f in fields(Settings) if f.name in data}
    if known.get("interval") is not None:
        known["interval"] = tuple(known["interval"])             # JSON has lists only
    return Settings(**known).check()


def check_prompt(prompt: str) -> str:
    """The prompt as it is, for tokenizers see every space; raises SettingsError if nothing is in it."""
    if not prompt.strip():
        raise SettingsError("The prompt is empty; say what should sound, for example \"rain on a tin roof\".")
    return prompt
