"""The commands as their users meet them: options, names of files, errors, what is said and where."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import CHECKPOINTS, cases, recorded, relative

from audiogen import audio, hub
from audiogen.cli import console, main, output
from audiogen.recipe import slug

MODEL = ["--model", str(CHECKPOINTS / "audioldm-tiny"), "--device", "cpu"]
QUICK = [*MODEL, "--duration", "0.3", "--steps", "1"]


def here() -> list[str]:
    return sorted(p.name for p in Path().iterdir())


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'transformers', 'soundfile', 'rich', 'huggingface_hub'}"
    code = f"import sys; sys.argv = ['audiogen', '--help']\nfrom audiogen.cli import main\ntry: main()\nfinally: " \
           f"print('HEAVY', sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "generate" in told
    assert told.splitlines()[-1] == "HEAVY []"


def test_every_command_explains_itself(run: Any) -> None:
    for command in ("generate", "batch", "info", "models", "train", "evaluate"):
        code, out, err = run(command, "--help")
        assert (code, err) == (0, "")
        assert f"Usage: audiogen {command}" in out
    assert run("--version")[1].startswith("audiogen ")
    code, out, err = run()
    assert "Commands:" in out + err
    assert len((out + err).splitlines()) > 10


def test_bfloat16_is_said_to_be_slow_where_it_is(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    Path("prompts.txt").write_text("a bell\n")
    for command in (["generate", "a bell"], ["batch", "prompts.txt", "-o", "out"]):
        for dtype in ("bfloat16", "float32"):
            code, _, err = run(*command, *QUICK, "--dtype", dtype, *(["--overwrite"] if command[0] == "generate" else []))
            assert code == 0
            assert ("no instructions for bfloat16" in err) == (dtype == "bfloat16")
        shutil.rmtree("out", ignore_errors=True)


def test_a_sound_is_named_and_announced(run: Any) -> None:
    code, out, err = run("generate", "Rain on a tin roof!", *QUICK, "--seed", "7")
    assert (code, err) == (0, "")
    assert here() == ["rain-on-a-tin-roof-7.wav"]
    assert out.startswith("rain-on-a-tin-roof-7.wav: 0.30 s of sound, made in ")
    assert "seed 7" in out
    assert soundfile.info("rain-on-a-tin-roof-7.wav").frames == 4800
    first = Path("rain-on-a-tin-roof-7.wav").read_bytes()
    run("generate", "Rain on a tin roof!", *QUICK, "--seed", "7")                # the same again: beside, never over it
    assert here() == ["rain-on-a-tin-roof-7-2.wav", "rain-on-a-tin-roof-7.wav"]
    assert Path("rain-on-a-tin-roof-7-2.wav").read_bytes() == first
    run("generate", "Rain on a tin roof!", *QUICK, "--seed", "7", "--guidance", "6", "--overwrite")
    assert len(here()) == 2
    assert Path("rain-on-a-tin-roof-7.wav").read_bytes() != first


def test_without_a_seed_one_is_drawn_and_said(run: Any) -> None:
    seeds = {json.loads(run("generate", "rain", *QUICK, "--json")[1])["seed"] for _ in range(2)}
    assert len(seeds) == 2
    assert here() == sorted(f"rain-{seed}.wav" for seed in seeds)


def test_the_recorded_cases_come_out_of_the_command(run: Any) -> None:
    case = cases("audioldm-tiny")[0]
    negative = ["--negative", case["negative"]] if case["negative"] else []
    code, _, err = run("generate", case["prompt"], *negative, *MODEL, "--dtype", "float32", "--seed", case["seed"], "--steps",
                       case["steps"], "--guidance", case["guidance"], "--duration", case["duration"], "--sampler",
                       case["sampler"], "-o", "case.wav")
    assert code == 0, err
    made = audio.read("case.wav")[0].numpy()
    assert np.abs(made - recorded("audioldm-tiny", 0)).max() < 1e-3
    run("generate", "something else", *MODEL, "--seed", case["seed"], "--steps", case["steps"], "--guidance",
        case["guidance"], "--duration", case["duration"], "--sampler", case["sampler"], "-o", "other.wav")
    assert relative(audio.read("other.wav")[0], recorded("audioldm-tiny", 0)) > 5e-3


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_like_makes_the_same_sound_again(run: Any, kind: str) -> None:
    assert run("generate", "a bell", "--negative", "noise", *QUICK, "--guidance", "4", "--karras", "--format", kind)[0] == 0
    name, = here()
    code, out, _ = run("info", name, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["prompt"], told["negative"], told["guidance"], told["karras"], told["steps"]) == ("a bell", "noise", 4, True, 1)
    assert "a bell" in run("info", name)[1]
    assert run("generate", "--like", name, "-o", f"again.{kind}", "--device", "cpu")[0] == 0
    assert np.array_equal(soundfile.read(name)[0], soundfile.read(f"again.{kind}")[0])
    assert run("generate", "--like", name, "-o", f"other.{kind}", "--seed", "1", "--device", "cpu")[0] == 0
    assert not np.array_equal(soundfile.read(name)[0], soundfile.read(f"other.{kind}")[0])


def test_takes_prompts_pictures_and_json(run: Any) -> None:
    code, out, err = run("generate", "rain", "wind", *QUICK, "--count", "2", "--seed", "5", "-o", "takes", "--spectrogram",
                         "--json", "--format", "flac")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["rain-5.flac", "rain-6.flac", "wind-5.flac", "wind-6.flac"]
    for line in lines:
        assert Path(line["file"]).read_bytes()[:4] == b"fLaC"
        assert Path(line["spectrogram"]).read_bytes()[1:4] == b"PNG"
        assert (line["seconds"], line["sample_rate"]) == (0.3, 16000)
    assert run("generate", "rain", *QUICK, "--seed", "6", "-o", "alone.flac", "--quiet") == (0, "", "")
    assert np.array_equal(soundfile.read("alone.flac")[0], soundfile.read("takes/rain-6.flac")[0])   # whatever was beside it


def test_hostile_prompts_make_plain_names(run: Any) -> None:
    prompts = ["../../etc/passwd", "CON", "a/b\\c:d*e?", "new\nline \x1b[31mred", "\N{DOG}\N{DOG}", "...", "x" * 300,
               "雨の音" * 40, "--x"]
    code, out, _ = run("generate", *QUICK, "--seed", "1", "-o", "out", "--", *prompts)
    assert code == 0
    names = sorted(p.name for p in Path("out").iterdir())
    assert len(names) == len(prompts)
    assert here() == ["out"]
    assert {"etc-passwd-1.wav", "con-1.wav", "a-b-c-d-e-1.wav", "new-line-31mred-1.wav", "sound-1.wav",
            "sound-1-2.wav"} < set(names)
    assert all(len(name.encode()) < 143 and name.isprintable() for name in names)
    assert "\x1b" not in out
    assert slug("Crème  Brûlée №5 ") == "crème-brûlée-no5"


@pytest.mark.parametrize(("arguments", "code", "words"), [
    ([""], 1, "The prompt is empty"), ([" \n"], 1, "The prompt is empty"), (["\udcff"], 1, "not UTF-8"),
    ([], 2, "what should sound"), (["x", "--nonsense"], 2, "--nonsense"), (["x", "--duration", "abc"], 2, "--duration"),
    (["x", "--duration", "0"], 1, "duration of 0"), (["x", "--duration", "1e9"], 1, "duration"),
    (["x", "--duration", "nan"], 1, "duration"), (["x", "--steps", "0"], 1, "0 steps"),
    (["x", "--guidance", "-1"], 1, "guidance"),
    (["x", "--sampler", "eular"], 1, "did you mean 'euler'"), (["x", "--seed", "-1"], 1, "seed of -1"),
    (["x", "--count", "0"], 1, "count of 0"), (["x", "--format", "aac"], 1, "aac"), (["x", "-o", "a.aac"], 1, "a.aac"),
    (["x", "-o", "a.wav", "--format", "mp3"], 1, "mp3"), (["x", "-o", "there.wav"], 1, "there already"),
    (["x", "-o", "there.wav/y"], 1, "there.wav"), (["x", "--device", "gpu"], 1, "No device 'gpu'"),
    (["x", "--dtype", "float8"], 1, "float8"), (["x", "--model", "audioldm3"], 1, "audioldm2"),
    (["x", "--model", "nobody/nothing", "--offline"], 1, "not on this machine"), (["x", "--model", "."], 1, "holds no model"),
    (["x", "--say", "hello"], 1, "does not speak"), (["--like", "there.wav"], 1, "there.wav"),
    (["--like", "none.wav"], 1, "no such file"),
])
def test_errors_are_one_sentence(run: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")                    # --offline sets it for the process
    Path("there.wav").write_bytes(b"no sound")
    found, out, err = run("generate", *QUICK, *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("audiogen: ")
    assert words in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    assert here() == ["there.wav"]


def test_debug_brings_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["audiogen", "generate", "x", "--steps", "0", "--debug"])
    with pytest.raises(Exception, match="0 steps"):
        main()


@pytest.mark.parametrize(("error", "words"), [
    (torch.OutOfMemoryError("CUDA out of memory."), "lower --duration"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "lower --duration"),
    (ImportError("libtorch.so: failed to map segment from shared object"), "Memory ran out"),
    (OSError(28, "No space left on device", "x.wav"), "disk is full (x.wav)"),
    (PermissionError(13, "Permission denied", "x.wav"), "Permission denied (x.wav)"),
    (OSError("Could not load this library: torchaudio/lib/libtorchaudio.so"), "pip install --upgrade torch torchaudio"),
    (KeyboardInterrupt(), "Stopped."),
])
def test_what_the_machine_refuses_is_one_sentence(
        run: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str) -> None:
    def refuse(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(hub, "load", refuse)
    code, out, err = run("generate", "rain", *QUICK)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "load", lambda *a: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["audiogen", "generate", "rain"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_prompt_that_is_too_long_is_said(run: Any) -> None:
    code, _, err = run("generate", "rain " * 600 + "thunder", *QUICK, "--seed", "1")
    assert code == 0
    assert "longer than this model reads" in err
    assert "rain" in err
    assert run("generate", "rain", *QUICK, "--seed", "1")[2] == ""


def test_speech_needs_its_words(run: Any) -> None:
    model = ["--model", str(CHECKPOINTS / "audioldm2-speech-tiny"), "--device", "cpu", "--duration", "0.3", "--steps", "1"]
    assert "--say" in run("generate", "a woman speaks", *model)[2]
    code, out, err = run("generate", "a woman speaks", *model, "--say", "good day", "--json")
    assert code == 0, err
    assert json.loads(out)["say"] == "good day"


def test_play_takes_a_player_or_says_there_is_none(
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(shutil, "which", lambda name: None)
    output.play(Path("x.wav"))
    assert "No player" in capfd.readouterr().err
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "aplay" else None)
    monkeypatch.setattr(subprocess, "run", lambda command, **named: calls.append(command))
    output.play(Path("-x.wav"))
    assert calls == [["aplay", "-q", str(Path("-x.wav").resolve())]]


def test_models_lists_what_is_known(run: Any) -> None:
    code, out, _ = run("models")
    assert code == 0
    assert all(known.name in out and known.licence in out for known in hub.KNOWN)
    assert max(map(len, out.splitlines())) < 200
    lines = [json.loads(line) for line in run("models", "--json")[1].splitlines()]
    assert [line["name"] for line in lines] == [known.name for known in hub.KNOWN]


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m audiogen models --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["name"] == "everyday"
    assert done.stderr == ""


@pytest.mark.parametrize(("ends", "code", "said"), [
    ("sys.exit(3)", 3, ""), ("print('whole')", 0, "whole\n"), ("1 / 0", 1, ""), ("sys.exit('no')", 1, "")])
def test_the_process_leaves_when_all_is_done_and_takes_nothing_apart(ends: str, code: int, said: str) -> None:
    program = f"""
import atexit, sys, threading, time
import audiogen.__main__ as console
class Kept:
    def __del__(self): sys.__stdout__.write("taken apart")
kept = Kept()
def late(): time.sleep(0.1); print("thread")
def main():
    atexit.register(print, "cleaned")
    threading.Thread(target=late).start()
    {ends}
console.main = main
"""
    left = subprocess.run([sys.executable, "-c", program + "console.command()"], capture_output=True, text=True, check=False)
    assert (left.returncode, left.stdout) == (code, f"{said}thread\ncleaned\n")
    assert ("ZeroDivisionError" in left.stderr) == (ends == "1 / 0")
    apart = subprocess.run([sys.executable, "-c", program + "main()"], capture_output=True, text=True, check=False)
    assert "taken apart" in apart.stdout                         # so that it would have been seen above


def test_progress_is_silent_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    with console.progress("working") as watch:
        watch(1, 2)
    assert capfd.readouterr() == ("", "")
    assert console.printable("a\x1b[2Jb\nc") == "a\ufffd[2Jb c"


@pytest.mark.parametrize("text", ["8", "a-b", "0.3-", "-1-2"])
def test_an_interval_that_is_none_is_said(text: str) -> None:
    from audiogen.cli.options import interval
    from audiogen.errors import SettingsError

    assert interval("0.3-8") == (0.3, 8.0)
    with pytest.raises(SettingsError, match="--guidance-interval"):
        interval(text)
