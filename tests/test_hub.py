"""Models of a hub: only what is needed is fetched, once; broken off it goes on; afterwards no network is needed."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from conftest import CHECKPOINTS, TINY
from hubs import Hub, serving
from huggingface_hub import constants
from test_cli import here

from audiogen import files, hub
from audiogen.errors import CheckpointError

IDLE = {"README.md": b"# card", "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
        "unet/diffusion_pytorch_model.bin": b"twin",
        "text_encoder/pytorch_model.bin": b"twin", "text_encoder/tf_model.h5": b"tf", "flax_model.msgpack": b"flax",
        "unet/model.onnx": b"onnx", "safety_checker/model.safetensors": b"other", "all-in-one.safetensors": b"whole",
        "unet/old/diffusion_pytorch_model.safetensors": b"old"}
UNET = "unet/diffusion_pytorch_model.safetensors"
QUICK = ["--duration", "0.3", "--steps", "1", "--device", "cpu", "--seed", "1"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with one model under two names, and an empty cache."""
    with serving() as found:
        for name in ("someone/tiny", "cvssp/audioldm-s-full-v2"):
            found.add(name, CHECKPOINTS / "audioldm-tiny")
            found.repos[name] |= IDLE
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")                # --offline sets it for the process
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # ... and this was read from it by then
        yield found


def test_what_is_needed_is_fetched_once_and_serves_offline(run: Any, server: Hub) -> None:
    assert not hub.cached("someone/tiny")
    code, out, err = run("generate", "rain", *QUICK, "--model", "someone/tiny")
    assert (code, err) == (0, "Fetching someone/tiny, once: 0.0 GB.\n")
    own = {str(f.relative_to(CHECKPOINTS / "audioldm-tiny")) for f in (CHECKPOINTS / "audioldm-tiny").rglob("*") if f.is_file()}
    assert {name for name, _ in server.fetched} == own
    assert len(server.fetched) == len(own)
    server.repos.clear()
    assert run("generate", "rain", *QUICK, "--model", "someone/tiny", "--offline", "-o", "again.wav")[0] == 0
    assert Path("again.wav").read_bytes() == Path("rain-1.wav").read_bytes()
    assert len(server.fetched) == len(own)
    code, _, err = run("generate", "rain", *QUICK, "--model", "audioldm-s", "--offline")
    assert code == 1
    assert "not on this machine" in err


def test_a_short_name_is_a_model_of_the_hub(run: Any, server: Hub) -> None:
    code, _, err = run("generate", "rain", *QUICK, "--model", "audioldm-s", "-o", "short.wav", "--quiet")
    assert (code, err) == (0, "")
    assert hub.cached("cvssp/audioldm-s-full-v2")
    assert '"name": "audioldm-s"' in run("models", "--json")[1]
    assert [line.split()[3] for line in run("models")[1].splitlines() if line.startswith("audioldm-s ")] == ["yes"]


def test_a_broken_connection_is_taken_up_where_it_broke(server: Hub) -> None:
    server.cut[UNET] = 100_500
    folder = hub.resolve("someone/tiny")
    asked = [span for name, span in server.fetched if name == UNET]
    assert asked == [None, "bytes=100000-"]
    assert (folder / UNET).read_bytes() == server.repos["someone/tiny"][UNET]


def test_a_download_that_ended_early_is_not_taken_for_a_model(run: Any, server: Hub) -> None:
    for missing in ([UNET, "vocoder/model.safetensors"], ["vocoder/model.safetensors"]):
        server.refused = dict.fromkeys(missing, (403, ""))
        code, _, err = run("generate", "rain", *QUICK, "--model", "someone/tiny")
        assert code == 1
        assert "HTTP 403" in err
        assert len(err.splitlines()) == 2
        assert hub.cached("someone/tiny") is None
    server.refused = {}
    hub.resolve("someone/tiny")
    names = [name for name, _ in server.fetched]
    assert names.count("tokenizer/tokenizer.json") == 1          # what was there is not fetched again
    assert hub.cached("someone/tiny")


@pytest.mark.parametrize(("name", "words"), [
    ("someone/nothing", "no such model"), ("cvssp/audioldm-s-full-v", "did you mean cvssp/audioldm-s-full-v2"),
    ("gated/model", "accept its conditions"), ("busy/model", "HTTP 418"), ("plain/model", "no model_index.json"),
    ("odd name/x", "not a name of the hub")])
def test_what_a_hub_refuses_is_one_sentence(run: Any, server: Hub, name: str, words: str) -> None:
    server.refused |= {"gated/model": (403, "GatedRepo"), "busy/model": (418, "")}
    server.repos["plain/model"] = {"model.safetensors": b"", "README.md": b""}
    code, out, err = run("generate", "rain", *QUICK, "--model", name)
    assert (code, out) == (1, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert here() == []


def test_a_hub_that_is_away(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="cannot be fetched .ConnectError.: connect"):
        hub.resolve("someone/tiny")


def test_a_full_disk_is_not_taken_for_the_network(run: Any, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert "disk is full" in run("generate", "rain", *QUICK, "--model", "someone/tiny")[2]


def test_which_weights_are_needed() -> None:
    shards = [f"unet/diffusion_pytorch_model-0000{k}-of-00002" for k in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    base = ["model_index.json", "tokenizer_2/vocab.json", "tokenizer_2/merges.txt", "tokenizer_2/spiece.model"]
    for weights, chosen in (
            ([index, *(f"{s}.safetensors" for s in shards), *(f"{s}.bin" for s in shards)],
             [index, *(f"{s}.safetensors" for s in shards)]),
            (["vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.safetensors"],
             ["vae/diffusion_pytorch_model.bin"]),
            (["vocoder/vocoder.pt", "condition_adapter_0/condition_adapter.pt", "text_encoder_0/model.safetensors"],) * 2,
            (["optimizer.pt", "unet/optimizer.bin", "vae_encoder/model.onnx"], [])):
        assert set(files.needed([*base, *weights])) == {*base, *chosen}
    own = ["config.json", "unet.safetensors", "autoencoder.safetensors", "vocoder.safetensors", "clap.safetensors",
           "text/tokenizer/tokenizer.json", "text/text_encoder/model.safetensors"]
    assert set(files.needed([*own, "README.md", "state/10/optimizer.pt", "state/10/unet.safetensors"])) == set(own)
    assert files.needed(own)[:2] == ["config.json", "text/tokenizer/tokenizer.json"]


@pytest.mark.parametrize("name", TINY)
def test_a_folder_is_whole_with_all_its_weights(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(CHECKPOINTS / name, tmp_path / name)
    assert files.is_whole(folder)
    for path in [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".pt")]:
        path.rename(tmp_path / "aside")
        assert not files.is_whole(folder), path
        (tmp_path / "aside").rename(path)
    assert files.is_whole(folder)
