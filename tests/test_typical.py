"""Which clips are typical of their label: those that a classifier which never heard them would have called so."""

import csv
import sys
from pathlib import Path

import pytest
import torch
from clips import folder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import typical


def features(n: int = 240) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """n rows around one of three centres, their labels, and which of them carry another's label."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(n) % 3
    x = torch.randn(3, 16, generator=generator)[kind] + 0.5 * torch.randn(n, 16, generator=generator)
    wrong = torch.rand(n, generator=generator) < 0.2
    return x, [str(int(k)) for k in (kind + wrong) % 3], wrong


def test_what_is_labelled_wrongly_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typical, "STEPS", 60)
    x, labels, wrong = features()
    own = typical.unseen(x, labels, [str(i) for i in range(len(x))])
    above = (own[~wrong][:, None] > own[wrong]).float().mean()
    assert above > 0.9
    weight = torch.tensor(typical.weights(own, labels, 4.0))
    assert weight[wrong].sum() < 0.05 * weight.sum(), "a fifth of the clips"
    assert torch.tensor(typical.weights(own, labels, 0.0)).eq(1).all()


def test_no_clip_speaks_for_its_own_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six copies of what is labelled wrongly come last while they are taken for one group; as clips of their own, higher."""
    monkeypatch.setattr(typical, "STEPS", 60)
    x, labels, wrong = features(90)
    copies = torch.cat([torch.arange(90), *[wrong.nonzero()[:, 0]] * 5]).tolist()
    many, names = x[copies], [labels[i] for i in copies]
    told = typical.unseen(many, names, [str(i) for i in copies])[:90]
    fooled = typical.unseen(many, names, [str(i) for i in range(len(copies))])[:90]

    def above(own: torch.Tensor) -> float:
        return float((own[~wrong][:, None] > own[wrong]).float().mean())

    assert above(told) > above(fooled) + 0.1


def test_the_script_writes_what_training_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typical, "STEPS", 5)
    data, out = folder(tmp_path / "data", 8), tmp_path / "weights.csv"
    monkeypatch.setattr(sys, "argv", ["typical.py", str(data), str(out)])
    typical.main()
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == [f"{i}.wav" for i in range(8)]
    assert sorted(row["weight"] for row in rows) == ["0.0039"] * 4 + ["0.3164"] * 4, "two clips a label: at 1/4 and 3/4"
