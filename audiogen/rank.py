"""The best of several takes: how well a sound fits its own prompt, as a network that knows both hears it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from audiogen.audio import resample
from audiogen.diffusion.sampling import Watch, ignore
from audiogen.edit.paint import Edited
from audiogen.errors import SettingsError
from audiogen.evaluate.embed import Embedder, TextEmbedder, load_embedder
from audiogen.recipe import Recipe
from audiogen.sentence import Sentence
from audiogen.timeline import read_timeline
from audiogen.words import read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from audiogen.pipeline import Generation, Pipeline

Take = TypeVar("Take", bound="Generation | Edited")
Array = NDArray[Any]
NEAREST = 5                                                      # classes of a tagger that stand for a prompt


class Ranker(Protocol):
    """Scores sounds: higher fits better; scores of one prompt compare with each other only."""

    name: str

    def score(self, prompt: str, wave: "Tensor", rate: int) -> float:
        """How well the wave (S,) fits the prompt."""


class ByEmbedding:
    """The cosine of a sound and a sentence in the space of a CLAP."""

    def __init__(self, embedder: TextEmbedder):
        self.name, self.embedder = embedder.title, embedder
        self._known: dict[str, Array] = {}

    def score(self, prompt: str, wave: "Tensor", rate: int) -> float:
        """-1 to 1"""
        if prompt not in self._known:
            self._known[prompt] = self.embedder.embed_text([prompt])[0]
        text, sound = self._known[prompt], self.embedder.embed(resample(wave, rate, self.embedder.rate).numpy()).clip
        return float(text @ sound / max(float(np.linalg.norm(text) * np.linalg.norm(sound)), 1e-12))


class ByClasses:
    """The probability that a tagger gives to the classes whose names are nearest to the prompt, weighed by nearness."""

    def __init__(self, embedder: Embedder, text: Sentence):
        self.name, self.embedder, self.text = embedder.title, embedder, text
        self._classes: Array | None = None                       # (K, D)
        self._known: dict[str, Array] = {}

    def score(self, prompt: str, wave: "Tensor", rate: int) -> float:
        """0 to 1"""
        heard = self.embedder.embed(resample(wave, rate, self.embedder.rate).numpy()).scores         # (K,)
        return float(self.weights(prompt) @ heard)

    def weights(self, prompt: str) -> Array:
        """How much each class says about a prompt, 1 in all. (K,)"""
        if self._classes is None:
            self._classes = np.stack([self._vector(name) for name in self.embedder.classes])
        if prompt not in self._known:
            near = self._classes @ self._vector(prompt)
            few = np.sort(near)[-min(NEAREST, len(near))]
            weights = np.where(near >= few, np.maximum(near, 1e-6) ** 2, 0)
            self._known[prompt] = weights / weights.sum()
        return self._known[prompt]

    def _vector(self, text: str) -> Array:
        film = self.text.states(text).film
        assert film is not None
        vector = film[0].float().cpu().numpy()
        return np.asarray(vector / np.linalg.norm(vector))


def load_ranker(name: str | None, pipeline: "Pipeline") -> Ranker:
    """The ranker of this name (an embedder's: yamnet, clap:NAME), or the model's own: its CLAP, if it is whole.

    Without one, models whose prompts are sentences are judged by a tagger of sounds. Raises SettingsError for a model that has
    neither.
    """
    model = pipeline.model
    sentence = model.text if isinstance(model.text, Sentence) else None
    if name is None:
        if whole_clap(model.folder):
            name = f"clap:{model.folder}"
        elif sentence is not None:
            name = "yamnet"
        else:
            raise SettingsError(f"The model '{model.name}' has no whole CLAP to choose by; name one: --ranker clap:NAME.")
    embedder = load_embedder(name, pipeline.device)
    if isinstance(embedder, TextEmbedder):
        return ByEmbedding(embedder)
    if sentence is None:
        raise SettingsError(f"--ranker {name} needs a model whose prompts are sentences, as everyday; use --ranker clap:NAME.")
    return ByClasses(embedder, sentence)


def whole_clap(folder: Path) -> bool:
    """Whether a model comes with both halves of a CLAP."""
    from audiogen.config import read_json

    config = folder / "text_encoder/config.json"
    return (folder / "clap.safetensors").exists() or (config.exists() and read_json(config).get("model_type") == "clap")


def scored(ranker: Ranker, prompt: str, wave: "Tensor", rate: int, timeline: bool = False) -> float:
    """The score of a wave (S,) for a prompt, whose weights do not count; of a timeline the mean over its parts."""
    if not timeline:
        return ranker.score(read_weights(prompt).prompt, wave, rate)
    parts = [(s.prompt, wave[int(s.begin * rate) : int(s.end * rate)]) for s in read_timeline(prompt)]
    heard = [(p, w) for p, w in parts if len(w)]
    return sum(ranker.score(read_weights(p).prompt, w, rate) for p, w in heard) / len(heard)


def candidates(make: Callable[[Recipe, Watch], Take], ranker: Ranker, recipe: Recipe, count: int,
               watch: Watch = ignore) -> tuple[list[Take], list[float]]:
    """Takes of a recipe with seeds that follow each other, each made alone by `make`, and their scores.

    Of a recording that was changed what counts is from the first sample that was painted to the last.
    """
    made: list[Take] = []
    scores = []
    for k in range(count):
        def tell(done: int, total: int, k: int = k) -> None:
            watch(k * total + done, count * total)

        take = make(recipe.of(recipe.seed + k), tell)
        wave = take.audio.float().mean(dim=0)                    # (S,)
        if isinstance(take, Edited):
            wave = wave[take.painted]
        made.append(take)
        scores.append(scored(ranker, recipe.prompt, wave, take.sample_rate, recipe.settings.timeline))
    return made, scores


def best(scores: Sequence[float]) -> int:
    """Which is the highest; of equal ones the first."""
    return max(range(len(scores)), key=lambda i: scores[i])
