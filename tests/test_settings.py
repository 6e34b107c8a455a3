"""Settings of a generation: what is refused, and in which words."""

import json
import math

import pytest

from audiogen.config import DefaultsConfig
from audiogen.errors import SettingsError
from audiogen.settings import SAMPLERS, Settings, check_prompt, settings_of


@pytest.mark.parametrize(("changes", "message"), [
    ({"duration": 0.0}, "duration of 0 s"), ({"duration": -1.5}, "duration of -1.5 s"), ({"duration": 1e9}, "at most 3600"),
    ({"duration": math.nan}, "duration of nan"), ({"duration": math.inf}, "duration of inf"),
    ({"steps": 0}, "0 steps"), ({"steps": -3}, "-3 steps"), ({"steps": 5000}, "1 to 1000"),
    ({"guidance": 0.5}, "guidance of 0.5"), ({"guidance": math.nan}, "guidance of nan"), ({"guidance": 1e6}, "out of range"),
    ({"sampler": "dpmp-2m"}, "did you mean 'dpmpp-2m'"), ({"sampler": "zzz"}, "No sampler 'zzz': there are ddim, ddpm"),
    ({"rescale": 1.5}, "rescale 1.5"), ({"rescale": -0.1}, "rescale -0.1"), ({"eta": 2.0}, "eta 2"),
    ({"interval": (3.0, 1.0)}, "from noise level 3 to 1"), ({"interval": (-1.0, 1.0)}, "from noise level -1"),
    ({"eta": math.nan}, "eta nan"), ({"slow": 1.1}, "slow 1.1"), ({"drafts": 0}, "0 drafts"), ({"drafts": 101}, "1 to 100")])
def test_what_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings(**changes).check()


def test_the_edges_are_allowed() -> None:
    for changes in ({"duration": 3600.0}, {"duration": 0.01}, {"steps": 1}, {"steps": 1000}, {"guidance": 1.0},
                    {"rescale": 0.0, "eta": 1.0}, *({"sampler": name} for name in SAMPLERS)):
        assert Settings(**changes).check() == Settings(**changes)


def test_defaults_fill_only_what_is_not_given() -> None:
    defaults = DefaultsConfig(steps=33, guidance=2.0, sampler="heun", duration=7.0)
    filled = Settings(steps=5, eta=0.5).with_defaults(defaults)
    assert filled == Settings(duration=7.0, steps=5, guidance=2.0, sampler="heun", eta=0.5, karras=True, drafts=1, slow=1.0)
    assert filled.with_defaults(DefaultsConfig()) == filled


def test_levels_after_karras_come_with_the_models_own_sampler_only() -> None:
    defaults = DefaultsConfig(sampler="unipc", karras=True)
    assert Settings().with_defaults(defaults).karras
    assert not Settings(sampler="unipc").with_defaults(defaults).karras
    assert Settings(sampler="ddim", karras=True).with_defaults(defaults).karras
    assert not Settings(karras=False).with_defaults(defaults).karras
    assert not Settings().with_defaults(DefaultsConfig(karras=False)).karras


def test_a_stored_recipe_gives_its_settings_back() -> None:
    settings = Settings(duration=2.5, steps=9, guidance=3.0, sampler="unipc", interval=(0.3, 8.0), rescale=0.2,
                        slow=0.4, karras=True)
    assert settings_of({**settings.as_dict(), "prompt": "rain", "seed": 3}) == settings
    assert settings_of(json.loads(json.dumps(settings.as_dict()))) == settings
    with pytest.raises(SettingsError):
        settings_of({"steps": 0})


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t "])
def test_an_empty_prompt(prompt: str) -> None:
    with pytest.raises(SettingsError, match="prompt is empty"):
        check_prompt(prompt)


def test_a_prompt_keeps_its_spaces() -> None:
    assert check_prompt("  rain \n on a   roof ") == "  rain \n on a   roof "
