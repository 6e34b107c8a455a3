"""The same numbers as the public pipelines: every recorded case of the five families."""

import numpy as np
import pytest
from conftest import TINY, cases, recorded, relative, tiny


def tolerance(name: str) -> float:
    """Relative error allowed: Auffusion's references were rounded to 16 bits, the others differ by rounding alone."""
    return 1e-3 if name == "auffusion-tiny" else 2e-5


def make(name: str, case: dict) -> np.ndarray:
    keys = ("steps", "guidance", "duration", "sampler")
    made = tiny(name).generate([case["prompt"]], seeds=[case["seed"]], negatives=[case["negative"]], says=[case.get("say")],
                               **{k: case[k] for k in keys})
    assert made.sample_rate == 16_000
    return made.audio[0].numpy()


@pytest.mark.parametrize(("name", "i"), [(name, i) for name in TINY for i in range(len(cases(name)))])
def test_wave_is_the_references(name: str, i: int) -> None:
    wave, reference = make(name, cases(name)[i]), recorded(name, i)
    assert wave.shape == reference.shape
    assert np.abs(wave - reference).max() < 2e-3
    assert relative(wave, reference) < tolerance(name)


@pytest.mark.parametrize(("name", "i"), [("audioldm-tiny", 0), ("audioldm2-tiny", 0), ("auffusion-tiny", 2),
                                         ("musicldm-tiny", 0), ("audioldm2-speech-tiny", 1)])
def test_agreement_can_fail(name: str, i: int) -> None:
    """Another word, guidance or seed leaves the tolerance by far: agreement means that all of them are right."""
    case, reference = cases(name)[i], recorded(name, i)
    changes = {"prompt": case["prompt"].rsplit(" ", 1)[0] + " guitar", "guidance": case["guidance"] + 1, "seed": case["seed"] + 1}
    if "say" in case:
        changes["say"] = case["say"].replace("day", "night")
    for key, value in changes.items():
        assert relative(make(name, {**case, key: value}), reference) > 3 * tolerance(name), key
