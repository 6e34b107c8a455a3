"""`audiogen train` as it is typed: the check of a folder, refusals in one sentence, a run and its resumption."""

import json
from pathlib import Path

import pytest
from clips import folder
from test_train import SMALL, rows
from typer.testing import CliRunner

from audiogen.checkpoint import load_model
from audiogen.cli import app
from audiogen.errors import AudiogenError, ConfigError, DataError, SettingsError

runner = CliRunner()


def invoke(*arguments: object) -> str:
    """stdout of a command; what it raised is raised."""
    result = runner.invoke(app, ["train", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_check_tells_what_is_there(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", 4)
    (data / "2.wav").write_bytes(b"")
    told = invoke(data, "--check")
    assert "3 sounds can be used" in told
    assert "1 cannot be read: 2.wav" in told
    assert "CC0" in told
    as_json = json.loads(invoke(data, "--check", "--json"))
    assert as_json["clips"] == 3
    assert as_json["faults"] == {"broken": ["2.wav"]}


@pytest.mark.parametrize(("arguments", "error", "words"), [
    (["--preset", "huge"], ConfigError, "No preset 'huge'; there are tiny, small, base, everyday"),
    (["--stage", "unet"], ConfigError, "No stage 'unet'; there are autoencoder"),
    (["--set", "vocoder.lrr=1"], ConfigError, "unknown key 'lrr', did you mean 'lr'"),
    (["--set", "vocoder.steps=0"], ConfigError, "vocoder.steps: 0 is not above 0"),
    (["--resume"], ConfigError, "holds no run to resume"),
    (["--text", "no_such_encoder"], AudiogenError, "No sentence encoder 'no_such_encoder'"),
])
def test_what_makes_no_sense_is_one_sentence(tmp_path: Path, arguments: list[str], error: type[Exception], words: str) -> None:
    data = folder(tmp_path / "data", 2)
    with pytest.raises(error, match=words) as caught:
        invoke(data, "--out", tmp_path / "run", *arguments)
    assert "\n" not in str(caught.value)


def test_where_to_and_what_from_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--out RUN"):
        invoke(tmp_path)
    with pytest.raises(DataError, match="holds no sounds"):
        invoke(tmp_path, "--out", tmp_path / "run", "--preset", "tiny", "--device", "cpu")


def test_one_stage_then_resumed_for_longer(tmp_path: Path) -> None:
    data, out = folder(tmp_path / "data", 6), tmp_path / "run"
    sets = [x for s in SMALL for x in ("--set", s)]
    told = invoke(data, "--out", out, "--preset", "tiny", "--stage", "autoencoder", "--device", "cpu", "--json", *sets)
    assert [json.loads(x)["step"] for x in told.splitlines() if '"loss"' in x] == [1, 2, 3, 4, 5, 6]
    invoke(data, "--out", out, "--device", "cpu", "--resume", "--set", "autoencoder.steps=8")
    assert [x["step"] for x in rows(out, "autoencoder") if "loss" in x] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {p.name.rsplit("-", 1)[0] for p in (out / "state").iterdir()} == {"autoencoder"}, "it had no other stages"
    invoke(data, "--out", out, "--stage", "vocoder", "--device", "cpu", "--resume", "--set", "vocoder.steps=1")
    assert [x["step"] for x in rows(out, "vocoder") if "loss" in x] == [1]
    assert load_model(out).config.autoencoder.channels == (8, 16, 16, 8)
