"""The benchmark runs at small sizes, compares the same networks, and its report says what was measured."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, kernels, networks, published, spent
from benchmarks.__main__ import main
from benchmarks.measure import Options, alternate, operations, relative, rows

QUICK = Options(quick=True, repeats=1)


@pytest.mark.parametrize("family", published.FAMILIES)
def test_unet_steps_compare_equal_networks(family: str) -> None:
    reference, ours, *half = (line for line in networks.unet_steps(family, QUICK) if line.ratio is not None)
    assert reference.ratio == 1.0
    assert ours.error is not None
    assert ours.error < 1e-5                                     # the same weights and the same inputs
    assert all(1e-4 < line.error < 5e-2 for line in half if line.error is not None)      # rounded, but the same too
    assert len(half) == 2


def test_a_step_is_the_sum_of_its_layers() -> None:
    runs = networks.unet_runs("audioldm2", QUICK)
    parts = {}
    for name, (network, run) in runs.items():
        with spent.watched(network) as parts[name]:
            run()
        assert sum(s.work for s in parts[name].values()) == operations(runs["diffusers, float32"][1])[1]     # as PyTorch counts
        assert all(s.seconds > 0 for s in parts[name].values())
    plain, ours = parts["diffusers, float32"], parts["audiogen, float32"]
    assert plain[spent.ATTENTION].work == ours[spent.ATTENTION].work
    counted = spent.shares(runs, QUICK)                          # ours knows the text's keys and values by now
    assert {line.name.split(":")[0] for line in counted} == {*spent.KINDS, spent.ATTENTION, spent.REST}
    with spent.watched(runs["audiogen, float32"][0]) as idle:
        pass
    assert not any(s.seconds or s.work for s in idle.values())
    assert "spent" in networks.sections(QUICK)
    assert "spent" not in networks.sections(Options("cuda"))     # whose layers return before they are done


def test_decoders_agree() -> None:
    for reference, ours in networks.decoders(QUICK).values():
        assert reference.error is None
        assert ours.error is not None
        assert ours.error < 1e-4


def test_rows_take_turns_and_tell_differences() -> None:
    order = []

    def run(name: str, value: float) -> torch.Tensor:
        order.append(name)
        return torch.full((4,), value)

    timed = alternate({"a": lambda: run("a", 1.0), "b": lambda: run("b", 1.5)}, Options(repeats=2))
    assert order == ["a", "b"] * 3                               # the first round warms up
    first, second = rows(timed, Options())
    assert (first.ratio, first.error) == (1.0, None)
    assert second.error == pytest.approx(0.5)
    assert relative(torch.ones(3), torch.ones(3)) == 0


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["--quick", "--only", "decode", "--out", str(tmp_path / "report.md")])
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"\| audiogen \| [\d.]+ m?s \| [\d.]+x \| \d\.\de[-+]\d+ \|", text)
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "U-Net" not in text                                   # only what was asked for
    with pytest.raises(SystemExit):
        main(["--only", "nonsense"])
    assert "no part 'nonsense'" in capsys.readouterr().err


def test_the_part_for_a_gpu(tmp_path: Path) -> None:
    main(["--quick", "--only", "gpu", "--out", str(tmp_path / "report.md")])
    text = (tmp_path / "report.md").read_text()
    assert re.findall(r"## One guided U-Net step of AudioLDM 2: (\d) clip", text) == ["1", "2"]
    errors = [float(e) for e in re.findall(r"\| audiogen, float32 \| [\d.]+ m?s \| [\d.]+x \| (\S+) \|", text)]
    assert len(errors) == 2
    assert all(e < 1e-5 for e in errors)                         # the same weights and the same inputs
    assert len(re.findall(r"\| 2 clips together, each \| [\d.]+ m?s \|", text)) == 2
    *_, spent_in = text.split("## Where the step of 2 clips spends its time")
    shares = {kind: int(share) for kind, share in re.findall(r"\| ([a-z ]+) \| [\d.]+ m?s \|  \|  \| (\d+) %", spent_in)}
    assert set(shares) == {*kernels.NAMES, spent.REST}
    assert 97 <= sum(shares.values()) <= 103                     # each is rounded
    assert min(shares[kind] for kind in ("convolutions", "matrix products", spent.ATTENTION)) > 0
    assert "gpu" not in gpu.sections(Options())                  # a CPU would take long


@pytest.mark.parametrize(("name", "kind"), [
    ("sm90_xmma_fprop_implicit_gemm_bf16bf16", "convolutions"), ("nvjet_tst_128x256_64x4", "matrix products"),
    ("sm90_xmma_gemm_bf16bf16_bf16f32", "matrix products"), ("void pytorch_flash::flash_fwd_kernel", "attention"),
    ("normed", "norms"), ("void at::native::vectorized_layer_norm_kernel", "norms"),
    ("void at::native::vectorized_elementwise_kernel", "all else")])
def test_kernels_have_kinds(name: str, kind: str) -> None:
    assert kernels.kind_of(name) == kind
