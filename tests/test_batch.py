"""A batch comes out the same however it was stopped, shared or grouped; bad lines harm no others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKPOINTS

from audiogen import audio, manifest
from audiogen import batch as work
from audiogen.cli import main
from audiogen.errors import AudiogenError, DataError
from audiogen.manifest import Appender
from audiogen.prompts import Fault, read_list
from audiogen.recipe import Recipe, derive_seed, safe_id
from audiogen.settings import Settings

MODEL = str(CHECKPOINTS / "audioldm-tiny")
QUICK = ["--model", MODEL, "--duration", "0.3", "--steps", "1", "--device", "cpu"]
WORDS = ["rain", "a dog barks", "wind", "a bell", "thunder", "a door slams", "birds sing", "steps on gravel", "a car passes"]


class Killed(BaseException):
    """The process ends here."""


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden ones too."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / manifest.NAME).read_text().splitlines()]


def test_every_line_becomes_a_sound_with_its_entry(run: Any, tmp_path: Path) -> None:
    listing = write(tmp_path / "list.csv",
                    ["id,prompt,seed,duration,count,negative", "x,rain,7,0.25,2,", "y,\"a dog, far\",,,,wind"])
    code, out, _ = run("batch", listing, "-o", tmp_path / "out", *QUICK)
    assert code == 0
    assert "3 sounds" in out
    x, x2, y = entries(tmp_path / "out")
    assert (x["id"], x["file"], x["prompt"], x["seed"], x["seconds"]) == ("x", "x.wav", "rain", 7, 0.25)
    assert (x2["id"], x2["seed"]) == ("x-2", 8)
    assert (y["prompt"], y["negative"], y["seed"], y["steps"]) == ("a dog, far", "wind", derive_seed(0, "y"), 1)
    for entry in (x, x2, y):
        wave, rate = audio.read(tmp_path / "out" / entry["file"])
        assert len(wave) == int(entry["seconds"] * rate)
        assert audio.read_recipe(tmp_path / "out" / entry["file"])["seed"] == entry["seed"]


@pytest.mark.parametrize("size", ["1", "4"])
def test_stopped_at_every_point_it_goes_on_as_if_undisturbed(
        run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    listing = write(tmp_path / "list.txt", [*WORDS, "", "last"])                # an empty line is a bad one
    arguments = ["batch", str(listing), *QUICK, "--batch-size", size]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*arguments, "-o", whole)[0] == 1
    plain = Appender.add

    for stage in ("before", "torn", "after", "before", "torn"):
        left = 2

        def add(self: Appender, entry: dict[str, Any], stage: str = stage) -> None:
            nonlocal left
            left -= 1
            if left == 0 and stage == "torn":
                self.file.write(json.dumps(entry).encode()[:30])
            if left != 0 or stage == "after":
                plain(self, entry)
            if left == 0:
                (self.path.parent / f".{entry['file']}.123.part").write_bytes(b"half")
                raise Killed

        monkeypatch.setattr(Appender, "add", add)
        monkeypatch.setattr(sys, "argv", ["audiogen", *arguments, "-o", str(stopped)])
        with pytest.raises(Killed):
            main()
        assert content(whole) != content(stopped)
    monkeypatch.setattr(Appender, "add", plain)
    assert run(*arguments, "-o", stopped)[0] == 1
    assert content(stopped) == content(whole)
    assert len(entries(whole)) == len(WORDS) + 2


def test_killed_by_sigkill_nothing_is_lost_or_doubled(run: Any, tmp_path: Path) -> None:
    listing = write(tmp_path / "list.txt", [f"{word} {k}" for k in range(4) for word in WORDS])
    arguments = ["batch", str(listing), *QUICK]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*arguments, "-o", whole)[0] == 0
    process = subprocess.Popen([sys.executable, "-m", "audiogen", *arguments, "-o", str(stopped)],
                               env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    while not (stopped / manifest.NAME).exists() or len((stopped / manifest.NAME).read_bytes().splitlines()) < 5:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len((stopped / manifest.NAME).read_bytes().splitlines()) < len(entries(whole))
    code, _, err = run(*arguments, "-o", stopped)
    assert code == 0
    assert "there already" in err
    assert content(stopped) == content(whole)


def test_several_processes_make_what_one_makes(run: Any, tmp_path: Path) -> None:
    listing = write(tmp_path / "list.jsonl", [json.dumps({"prompt": w}) for w in WORDS] + ["{broken"])
    arguments = ["batch", str(listing), *QUICK]
    assert run(*arguments, "-o", tmp_path / "one")[0] == 1
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                           "audiogen", *arguments, "-o", str(tmp_path / "two")],
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("line 10:") == 1
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_parts_of_a_killed_run_are_joined(tmp_path: Path) -> None:
    for rank, names in enumerate((["a", "c"], ["b", "d"])):
        with Appender(manifest.part(tmp_path, rank, 2)) as out:
            for name in names:
                out.add({"id": name})
    with open(manifest.part(tmp_path, 1, 2), "ab") as file:
        file.write(b'{"id": "e"')
    assert list(manifest.gather(tmp_path)) == ["a", "c", "b", "d"]
    assert list(content(tmp_path)) == [manifest.NAME]


def test_a_line_that_comes_in_changes_no_other(run: Any, tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": w}) for w in ("rain", "wind", "rain")]
    before, after = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", [rows[0], '{"prompt": "fire"}', *rows])
    run("batch", before, "-o", tmp_path / "a", *QUICK)
    run("batch", after, "-o", tmp_path / "b", *QUICK)
    a, b = content(tmp_path / "a"), content(tmp_path / "b")
    del a[manifest.NAME]
    assert len(a) == 3
    assert len(set(a.values())) == 3                             # the second "rain" is another take
    assert all(b[name] == data for name, data in a.items())
    code, _, err = run("batch", after, "-o", tmp_path / "a", *QUICK)             # a longer list goes on in the same folder
    assert code == 0
    assert "3 of 5 are there" in err
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_bad_lines_are_told_by_number_and_the_others_made(run: Any, tmp_path: Path) -> None:
    listing = write(tmp_path / "list.csv", [
        "id,prompt,duration,steps,seed,other", "a,rain,,,,", "b,  ,,,,", "c,dog,abc,,,", "a,again,,,,", "d,x,,0,,", "e,\"open,,,",
        "f,fine,,,,", "g,1,2,3,4,5,6", "h,x,,,1.5,"])
    code, out, err = run("batch", listing, "-o", tmp_path / "out", *QUICK)
    assert code == 1
    assert "2 sounds, 7 failed" in out
    for line, words in {3: "prompt is empty", 4: "\"abc\"", 5: "stands in line 2", 6: "0 steps", 7: "never closed",
                        9: "7 values under 6", 10: "whole number"}.items():
        assert any(f"line {line}:" in said and words in said for said in err.splitlines()), (line, err)
    assert "other" in err
    assert [e["id"] for e in entries(tmp_path / "out") if "error" not in e] == ["a", "f"]
    assert [e["line"] for e in entries(tmp_path / "out") if "error" in e] == [3, 4, 5, 6, 7, 9, 10]
    write(listing, ["id,prompt", "a,rain", "b,now there", "f,fine"])
    assert run("batch", listing, "-o", tmp_path / "out", *QUICK)[0] == 0
    assert [e["id"] for e in entries(tmp_path / "out")] == ["a", "b", "f"]


@pytest.mark.parametrize(("line", "words"), [
    ("{broken", "not JSON"), ("[1]", "object"), ('{"promt": "x"}', "promt"), ('{"prompt": 5}', "must be text"),
    ('{"prompt": "x", "duration": NaN}', "nan"), ('{"prompt": "x", "duration": true}', "a number"),
    ('{"prompt": "\\ud800"}', "UTF-8"), ('{"prompt": "x", "id": [1]}', "id"), ('{"prompt": "x", "count": 0}', "count of 0"),
    ('{"prompt": "x", "seed": -1}', "seed of -1")])
def test_faults_of_json_lines(tmp_path: Path, line: str, words: str) -> None:
    listing = read_list(str(write(tmp_path / "list.jsonl", [line, '{"prompt": "fine", "duration": "2"}'])))
    assert [(f.line, words in f.message) for f in listing.faults] == [(1, True)]
    assert listing.rows[0].settings == {"duration": 2.0}


def test_lists_that_cannot_be_read(run: Any, tmp_path: Path) -> None:
    for name, text, words in (("a.txt", " \n\n", "no prompts"), ("b.csv", "id,promt\n1,x\n", "did you mean it by 'promt'"),
                              ("c.doc", "rain", "no kind of list"), ("d.csv", "prompt,prompt\n", "twice")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=words):
            read_list(str(tmp_path / name))
    with pytest.raises(DataError, match="no list"):
        read_list(str(tmp_path / "none.txt"))
    latin = tmp_path / "latin.txt"
    latin.write_bytes("rain\ncaf\xe9\r\n".encode("latin-1"))
    found = read_list(str(latin))
    assert [row.prompt for row in found.rows] == ["rain"]
    assert found.faults == [Fault(2, found.faults[0].id, "the prompt holds bytes that are not UTF-8 text", "caf\ufffd\ufffd")]


def test_a_list_may_come_by_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    for text, prompts in (("rain\r\nwind\n", ["rain", "wind"]), ('{"prompt": "rain"}\n', ["rain"])):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("utf-8-sig"))))
        assert [row.prompt for row in read_list("-").rows] == prompts
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"prompt\tid\n\"two\nlines\"\t5\nx\t6\n")))
    assert [(row.prompt, row.id, row.line) for row in read_list("-", "tsv").rows] == [("two\nlines", "5", 2), ("x", "6", 4)]


def test_other_settings_or_strange_files_are_not_replaced(run: Any, tmp_path: Path) -> None:
    listing, out = write(tmp_path / "list.csv", ["id,prompt", "a,rain"]), tmp_path / "out"
    out.mkdir()
    (out / "a.wav").write_bytes(b"mine")
    code, _, err = run("batch", listing, "-o", out, *QUICK)
    assert code == 1
    assert "a.wav (not of this batch)" in err
    assert (out / "a.wav").read_bytes() == b"mine"
    assert run("batch", listing, "-o", out, *QUICK, "--overwrite")[0] == 0
    made = content(out)
    code, _, err = run("batch", listing, "-o", out, *QUICK, "--guidance", "5")
    assert code == 1
    assert "guidance 2.5, now 5.0" in err
    assert content(out) == made
    assert run("batch", listing, "-o", out, *QUICK, "--guidance", "5", "--overwrite")[0] == 0
    assert entries(out)[0]["guidance"] == 5
    assert content(out)["a.wav"] != made["a.wav"]


def test_two_batches_do_not_share_a_folder(run: Any, tmp_path: Path) -> None:
    listing = write(tmp_path / "list.txt", ["rain"])
    with manifest.locked(tmp_path):
        code, _, err = run("batch", listing, "-o", tmp_path, *QUICK)
    assert code == 1
    assert "Another batch is at work" in err
    assert run("batch", listing, "-o", tmp_path, *QUICK)[0] == 0


def test_a_full_disk_leaves_what_was_made(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = write(tmp_path / "list.txt", WORDS)
    with monkeypatch.context() as full:
        made, plain = 0, audio.write

        def refuse(*arguments: Any, **more: Any) -> None:
            nonlocal made
            made += 1
            if made == 4:
                raise OSError(28, "No space left on device", str(arguments[0]))
            plain(*arguments, **more)

        full.setattr(audio, "write", refuse)
        code, _, err = run("batch", listing, "-o", tmp_path / "out", *QUICK)
    assert code == 1
    assert "The disk is full" in err
    assert len(err.strip().splitlines()) == 1
    assert len(entries(tmp_path / "out")) == 3
    assert run("batch", listing, "-o", tmp_path / "out", *QUICK)[0] == 0
    assert len(entries(tmp_path / "out")) == len(WORDS)


class Limited:
    """A pipeline whose memory ends at two items, and which cannot make one of them."""

    def __init__(self, pipeline: Any, items: int = 2, never: str = "the impossible"):
        self.pipeline, self.items, self.never = pipeline, items, never
        self.dtype, self.model, self.sizes = pipeline.dtype, pipeline.model, list[int]()

    def generate(self, prompts: list[str], *arguments: Any, **named: Any) -> Any:
        self.sizes.append(len(prompts))
        if len(prompts) > self.items:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if self.never in prompts:
            raise AudiogenError("The latents are not finite.")
        return self.pipeline.generate(prompts, *arguments, **named)


def test_where_memory_ends_groups_are_halved(load: Any, tmp_path: Path) -> None:
    listing = read_list(str(write(tmp_path / "list.txt", [*WORDS[:6], "the impossible", "wood"])))
    base = Recipe("-", 0, Settings(0.3, 1, 1.0, "ddim"), "tiny")
    items, faults = work.expand(listing, base, "wav")
    pipeline = Limited(load("audioldm-tiny"))
    plan = work.plan(tmp_path, items, faults, 8)
    with Appender(tmp_path / manifest.NAME) as out:
        worker = work.Worker(pipeline, tmp_path, plan, out, lambda items: None, lambda entry: None)   # type: ignore[arg-type]
        for group in plan.groups():
            worker.make(group)
    assert pipeline.sizes == [8, 4, 2, 2, 2, 2, 1, 1]            # halved twice, then singles around the impossible one
    found = work.finish(tmp_path, plan)
    assert [e["id"] for e in found if "error" in e] == [items[6].id]
    assert found[6]["error"] == "The latents are not finite"
    again = work.plan(tmp_path, items, faults, 8)
    assert [item.id for group in again.groups() for item in group if item.id not in again.done] == [items[6].id]
    assert again.limits() == {base.settings: 2}                  # a run that goes on starts where this one ended


def test_names_of_files_are_safe_and_apart() -> None:
    assert [safe_id(name) for name in ("103331", "Y_a-b.c", "día 2")] == ["103331", "Y_a-b.c", "día 2"]
    for name in ("con", "CON.x", "../up", "/etc/passwd", "a/b", "a_b ", "-rf", ".hidden", "..", "a" * 300, "名" * 200,
                 "x\ny", "*?"):
        safe = safe_id(name)
        assert safe != name
        assert safe == safe.strip(" .")
        assert not set(safe) & set('/\\:*?"<>|\n')
        assert not safe.startswith(("-", "."))
        assert len(safe.encode()) < 130
    assert len({safe_id(name) for name in ("a/b", "a_b", "a\\b", "a:b")}) == 4
