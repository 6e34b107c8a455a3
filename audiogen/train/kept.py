"""Latents of a number of examples, drawn and encoded once: a smaller world than fresh draws, and a quicker step."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch

from audiogen.train.ahead import ahead
from audiogen.train.data import Watch
from audiogen.train.diffusion import DiffusionStage
from audiogen.train.examples import Drawer, Examples

TOGETHER = 16                                                    # examples encoded at once


class KeptDrawer:
    """Draws from kept latents as a Drawer does from clips; example i of step n is always the same one."""

    def __init__(self, latents: np.ndarray, captions: list[str], seed: str, batch: int) -> None:       # type: ignore[type-arg]
        self.latents, self.captions, self.seed, self.each = latents, captions, seed, batch

    def batch(self, step: int, items: range, seconds: float) -> Examples:
        """Examples number `items` of step `step`; their length is the one they were kept in."""
        at = [(step * self.each + i) % len(self.captions) for i in items]
        seeds = [int.from_bytes(hashlib.blake2b(f"{self.seed}:{step}:{i}".encode(), digest_size=7).digest()) for i in items]
        z = torch.from_numpy(self.latents[at].astype(np.float32))
        return Examples(torch.zeros(len(at), 0), [self.captions[i] for i in at], seeds, latents=z)


def keep(stage: DiffusionStage, drawer: Drawer, folder: Path, watch: Watch, processes: int = 0) -> KeptDrawer:
    """Encode config.cache examples into `folder`, unless they lie there from the same data and autoencoder."""
    c = stage.config
    digest = hashlib.blake2b(f"{c.cache}:{c.seconds}:{drawer.seed}:{drawer.config}:{len(drawer.clips)}".encode())
    for value in stage.autoencoder.state_dict().values():
        digest.update(value.detach().float().cpu().numpy().tobytes())
    index, data = folder / "latents.json", folder / "latents.npy"
    if index.exists() and data.exists():
        known = json.loads(index.read_text(encoding="utf-8"))
        if known["mark"] == digest.hexdigest():
            return KeptDrawer(np.load(data, mmap_mode="r"), known["captions"], drawer.seed, c.batch)
    parts, captions = [], []
    keys = ((-1, range(i, min(i + TOGETHER, c.cache)), c.seconds) for i in range(0, c.cache, TOGETHER))
    with ahead(drawer, keys, processes, stage.machine.device) as batches:
        for examples in batches:
            parts.append(stage.latents(examples.wave).cpu().numpy().astype(np.float16))
            captions += examples.captions
            watch(len(captions), c.cache)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / ".latents.part.npy"
    np.save(part, np.concatenate(parts))
    os.replace(part, data)
    index.write_text(json.dumps({"mark": digest.hexdigest(), "captions": captions}), encoding="utf-8")
    return KeptDrawer(np.load(data, mmap_mode="r"), captions, drawer.seed, c.batch)
