"""The script that builds a corpus: sources made here, fetched as the public ones are, from this machine."""

import csv
import hashlib
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from conftest import SCRIPTS

from audiogen.train.data import inspect

RATE = 44_100


@pytest.fixture(scope="module")
def build(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("build_corpus")


def noise(seconds: float, seed: int = 0, loud: float = 0.2) -> np.ndarray:
    return np.clip(loud * np.random.default_rng(seed).standard_normal((int(seconds * RATE), 2)), -1, 1)


def write(path: Path, wave: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, RATE)


def published(folder: Path) -> None:
    """What a source might publish, good and bad."""
    for i in range(3):
        write(folder / f"sounds/DogBark_{i}.wav", noise(1, i))
    write(folder / "sounds/rain-on-roof.flac", noise(34, 10))
    write(folder / "sounds/free/bell.ogg", noise(0.5, 11))
    write(folder / "sounds/free/bell_copy.wav", noise(1, 0))                       # the dog again
    write(folder / "sounds/cat_meow_silent.wav", np.zeros((RATE, 2)))
    write(folder / "sounds/cat_meow_loud.wav", noise(1, 12, loud=50))
    write(folder / "sounds/cat_meow_click.wav", noise(0.02, 13))
    write(folder / "sounds/xyzzy.wav", noise(1, 14))                               # its name says nothing
    write(folder / "sounds/menu/dog.wav", noise(1, 15))                            # dropped by a rule
    write(folder / "other/dog.wav", noise(1, 16))                                  # outside of the folder
    (folder / "sounds/cow.wav").write_bytes(b"not a sound")
    (folder / "LICENSE").write_text("by all means")


SOURCE = '''
textures = "rain"
words = """
bark  dog_bark
"""
[[source]]
name = "made"
home = "https://example.org/made"
licence = "CC-BY-4.0"
licences = "/free/  CC0-1.0"
credit = "Somebody"
folder = "sounds"
rules = """
/menu/  -
rain  rain  rain on a roof
"""
'''


def built(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, *more: str) -> Path:
    (tmp_path / "sources.toml").write_text(SOURCE + origin, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["build_corpus.py", str(tmp_path / "raw"), str(tmp_path / "corpus"),
                                      "--sources", str(tmp_path / "sources.toml"), *more])
    build.main()
    return tmp_path / "corpus"


def rows(corpus: Path) -> list[dict[str, str]]:
    with open(corpus / "metadata.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("kind", ["flac", "opus"])
def test_a_repository_becomes_a_dataset(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str], kind: str) -> None:
    origin = tmp_path / "origin"
    published(origin)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "init", "-q"], cwd=origin, check=True)
    commits = []
    for _ in range(2):
        for words in (["add", "."], [*who, "commit", "-q", "-m", "sounds"], ["rev-parse", "HEAD"]):
            said = subprocess.run(["git", *words], cwd=origin, check=True, capture_output=True, text=True).stdout
        commits.append(said.strip())
        write(origin / "sounds/goat.wav", noise(1, 20))                            # only in the second
    commit = commits[0]
    corpus = built(build, tmp_path, monkeypatch, f'git = "{origin.as_uri()}"\ncommit = "{commit}"', "--format", kind)

    table = rows(corpus)
    assert sorted(r["label"] for r in table if r["label"] != "rain") == ["bell", "dog_bark", "dog_bark", "dog_bark"]
    assert [r["text"] for r in table if r["label"] == "rain"] == ["rain on a roof"] * 3       # 10 + 10 + 10 of 34 s, and 4
    assert {r["license"] for r in table if r["label"] == "bell"} == {"CC0-1.0"}
    assert {r["license"] for r in table if r["label"] != "bell"} == {"CC-BY-4.0"}
    assert len({r["split"] for r in table if r["label"] == "dog_bark"}) == 1, "takes of one recording lie in one split"
    said = capsys.readouterr().out
    for fault in ("1 silent", "1 clipped", "1 short", "1 broken", "1 doubled"):
        assert fault in said
    for row in table:
        info = soundfile.info(corpus / row["file_name"])
        assert (info.samplerate, info.channels) == (16_000, 1)
        assert 0.1 < info.duration <= 10
    report = inspect(corpus)
    assert (len(report.clips), report.faults) == (len(table), {})
    assert "| made | 7 |" in (corpus / "ATTRIBUTION.md").read_text()
    assert "Somebody" in (corpus / "ATTRIBUTION.md").read_text()
    assert (corpus / "licenses/made/LICENSE").read_text() == "by all means"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_an_archive_inside_of_a_source_is_opened(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cow.wav", noise(1))
    (tmp_path / "origin/game").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "origin/game/public.zip", "w") as archive:
        archive.write(tmp_path / "cow.wav", "sounds/cow.wav")
        archive.write(tmp_path / "cow.wav", "sounds/cow.png")                      # unpacked are sounds and notices only
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "game"]):
        subprocess.run(["git", *words], cwd=tmp_path / "origin", check=True)
    corpus = built(build, tmp_path, monkeypatch, f'git = "{(tmp_path / "origin").as_uri()}"\ninside = "game/public.zip"')
    assert [r["label"] for r in rows(corpus)] == ["cow"]
    assert not (tmp_path / "raw/made/sounds/cow.png").exists()


class Server(BaseHTTPRequestHandler):
    """Serves one file, parts of it too, and keeps what was asked for."""

    data: bytes = b""
    asked: list[str | None] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.end_headers()
        self.wfile.write(self.data[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def call(data: bytes) -> str:
        Server.data, Server.asked = data, []
        return f"http://127.0.0.1:{server.server_port}/sounds.zip"

    yield call
    server.shutdown()
    server.server_close()


def test_a_download_goes_on_and_is_checked(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           serve: Callable[[bytes], str]) -> None:
    published(tmp_path / "origin")
    with zipfile.ZipFile(tmp_path / "sounds.zip", "w") as archive:
        for path in sorted((tmp_path / "origin").rglob("*")):
            archive.write(path, path.relative_to(tmp_path / "origin"))
    data = (tmp_path / "sounds.zip").read_bytes()
    url = serve(data)

    with pytest.raises(SystemExit, match="made"):                                  # a file that is not the one expected
        built(build, tmp_path, monkeypatch, f'files = {{ "{url}" = "{"0" * 64}" }}')
    assert not list((tmp_path / "raw/made").iterdir())
    (tmp_path / "raw/made/sounds.zip.part").write_bytes(data[:5000])               # broken off
    good = f'files = {{ "{url}" = "{hashlib.sha256(data).hexdigest()}" }}'
    corpus = built(build, tmp_path, monkeypatch, good)
    assert Server.asked == [None, "bytes=5000-"]
    first = rows(corpus)
    assert len(first) == 7
    assert rows(built(build, tmp_path, monkeypatch, good)) == first                # again: the same, and nothing is fetched
    assert len(Server.asked) == 2
    assert len(rows(built(build, tmp_path, monkeypatch, good, "--limit", "2"))) <= 4


def test_the_table_of_sources(build: ModuleType) -> None:
    told = tomllib.loads((SCRIPTS / "corpus_sources.toml").read_text(encoding="utf-8"))
    sources = [build.Source(**entry) for entry in told["source"]]
    labels = build.Labels(told["words"])
    assert len({s.name for s in sources}) == len(sources) >= 25
    for source in sources:
        assert sum(map(bool, (source.git, source.debian, source.pypi, source.files))) == 1, source.name
        assert source.home.startswith("https://")
        assert source.licence
        assert source.credit
        assert source.commit == "HEAD" or re.fullmatch("[0-9a-f]{40}", source.commit)
        for pattern in (source.drop, source.group):
            re.compile(pattern)
        for pattern, label, caption, *_ in build.columns(source.rules) + labels.words:
            re.compile(pattern)
            assert re.fullmatch("[a-z_]+|-", label), f"{source.name}: {pattern}"
            assert label in labels.wordings or label == "-" or caption, f"{source.name}: nothing is said of {label}"
    known = {s.name: s for s in sources}
    for name, path, label in (
            ("esc10", "005 - Clock tick/1-35687-A.ogg", "clock_tick"), ("0ad", "actor/fauna/animal/sheep_1.ogg", "sheep"),
            ("berklee-olpc", "wine_glass_3.mp3", "glass_hit"), ("berklee-olpc", "slingshot_2.mp3", "object"),
            ("luanti-sounds", "sounds_puppy_bark.ogg", "dog_bark"), ("sonic-pi", "usr/share/samples/bd_808.flac", "kick_drum")):
        assert labels.of(known[name], path)[0] == label
    assert labels.of(known["luanti-sounds"], "sounds_xyzzy.ogg") is None
