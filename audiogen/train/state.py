"""A run's state on disk: RUN/state/STAGE-STEP/state.pt, whole or not there at all, the last two of each stage."""

import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from audiogen.errors import AudiogenError

KEPT = 2


def save(run: Path, stage: str, step: int, state: dict[str, Any]) -> None:
    """Write beside, then move; raises OSError where the disk refuses, with the earlier saves as they were."""
    home = run / "state"
    home.mkdir(parents=True, exist_ok=True)
    part, done = home / f".{stage}.part", home / f"{stage}-{step:09d}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        with open(part / "state.pt", "wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:                        # the archive's writer hides what the disk said
                raise OSError(28, f"the state could not be written ({str(error).splitlines()[0][:120]})") from None
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(done, ignore_errors=True)
        os.replace(part, done)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in saves(run, stage)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def saves(run: Path, stage: str) -> list[Path]:
    """The saves of a stage, oldest first."""
    found = [p for p in (run / "state").glob(f"{stage}-*") if re.fullmatch(rf"{stage}-\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.rsplit("-", 1)[1]))


def load(run: Path, stage: str) -> dict[str, Any] | None:
    """The last save that can be read, or None if there was none. Raises AudiogenError if there are some and none can."""
    found = saves(run, stage)
    for path in reversed(found):
        try:
            return torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError):
            continue                                             # whatever half a file makes of itself
    if found:
        raise AudiogenError(f"No save of the {stage} in {run}/state can be read; remove that folder to begin this stage anew.")
    return None
