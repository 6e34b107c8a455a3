"""Configurations are read strictly, changed by --set, and survive their JSON."""

import json
from pathlib import Path

import pytest

from audiogen.config import MelConfig, ModelConfig, UNetConfig, VocoderConfig, from_dict, override, read_json, to_json
from audiogen.errors import ConfigError


def test_round_trip_of_json() -> None:
    config = ModelConfig(
        family="x", mel=MelConfig(hop=320, clip=1.0, layout="frequency"),
        unet=UNetConfig(transformers=(None, 0, 1), context_dims=(20, 28), film_dim=24, attention=(True, False, True, True)),
        vocoder=VocoderConfig(resblock_dilations=((1, 2), (3, 4, 5))))
    assert from_dict(ModelConfig, json.loads(to_json(config))) == config
    assert from_dict(ModelConfig, {}) == ModelConfig()


@pytest.mark.parametrize(("data", "message"), [
    ({"sampel_rate": 1}, "unknown key 'sampel_rate', did you mean 'sample_rate'"),
    ({"zzz": 1}, "unknown key 'zzz', known: sample_rate, "),
    ({"hop": "160"}, "hop: expected int, found '160'"), ({"hop": 160.5}, "hop: expected int"),
    ({"hop": True}, "hop: expected int, found True"), ({"fmin": False}, "fmin: expected float, found False"),
    ({"center": 1}, "center: expected bool"), ({"layout": "space"}, "layout: 'space' is not one of 'time', 'frequency'"),
    ({"clip": "no"}, "clip: expected float"), ([1], "expected a table of settings, found \\[1\\]")])
def test_what_is_refused(data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(MelConfig, data)


@pytest.mark.parametrize(("data", "message"), [
    ({"channels": 8}, "channels: expected a list, found 8"), ({"channels": [8, "x"]}, r"channels\[1\]: expected int, found 'x'"),
    ({"transformers": [None, "a"]}, r"transformers\[1\]: expected int")])
def test_lists_are_checked_item_by_item(data: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(UNetConfig, data)


def test_the_place_of_a_fault_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^config\.json\.mel: unknown key 'hopp', did you mean 'hop'\?$"):
        from_dict(ModelConfig, {"mel": {"hopp": 3}}, "config.json")
    with pytest.raises(ConfigError, match=r"resblock_dilations\[1\]\[0\]: expected int"):
        from_dict(ModelConfig, {"vocoder": {"resblock_dilations": [[1], ["b"]]}})


def test_whole_numbers_are_floats_and_null_is_none() -> None:
    mel = from_dict(MelConfig, {"fmax": 8000, "clip": None})
    assert isinstance(mel.fmax, float)
    assert mel.clip is None


def test_override() -> None:
    assigned = ["mel.hop=320", "family=rain", "unet.channels=[8, 16]", "mel.clip=1", "mel.layout=frequency"]
    changed = override(ModelConfig(), assigned)
    assert (changed.mel.hop, changed.family, changed.unet.channels, changed.mel.clip) == (320, "rain", (8, 16), 1.0)
    assert changed.mel.layout == "frequency"
    assert override(ModelConfig(), []) == ModelConfig()


@pytest.mark.parametrize(("text", "message"), [
    ("mel.hop", "write KEY=VALUE"), ("mel.hopp=3", "did you mean 'hop'"), ("mol.hop=3", "no table 'mol'"),
    ("family.hop=3", "no table 'family'"), ("mel.hop=loud", "expected int, found 'loud'")])
def test_override_refuses(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(ModelConfig(), [text])


def test_read_json_tells_where(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{\n "a": 1,\n "b" 2}\n')
    with pytest.raises(ConfigError, match="not JSON .line 3"):
        read_json(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(tmp_path / "absent.json")
