"""Several takes of a prompt: the best of some candidates, pairs of one structure, neighbours of an earlier sound."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiogen.cli import console
from audiogen.cli.options import OUTPUT
from audiogen.cli.output import ATTENTION, Output, beside
from audiogen.errors import SettingsError
from audiogen.prompts import check_candidates
from audiogen.recipe import Recipe, draft_seed
from audiogen.settings import check_prompt

if TYPE_CHECKING:
    from audiogen.diffusion.sampling import Watch
    from audiogen.edit.paint import Order
    from audiogen.pipeline import Generation, Pipeline
    from audiogen.rank import Ranker, Take

MORE = "Loops, timelines, several takes"                         # a heading of help

Loop = Annotated[bool | None, typer.Option(
    "--loop/--no-loop", help="Repeat without a seam; the duration is rounded to what can.", show_default="no-loop",
    rich_help_panel=MORE)]
Timeline = Annotated[str | None, typer.Option(
    metavar="TEXT", help="In place of prompts: \"0-6: rain; 4-9: thunder\", in seconds.", rich_help_panel=MORE)]
Candidates = Annotated[int, typer.Option(
    help="Make several takes and keep the one that fits its prompt best.", rich_help_panel=MORE)]
KeepAll = Annotated[bool, typer.Option("--keep-all", help="Keep all candidates, with their scores.", rich_help_panel=MORE)]
RankerName = Annotated[str | None, typer.Option(
    help="Who judges candidates: yamnet, or clap:NAME.", show_default="the model's own", rich_help_panel=MORE)]
Swap = Annotated[str | None, typer.Option(
    metavar="PROMPT", help="Also a sound of the same structure with other words.", rich_help_panel=MORE)]
VariationOf = Annotated[Path | None, typer.Option(
    metavar="FILE", help="A neighbour of a sound of audiogen.", rich_help_panel=MORE)]
Amount = Annotated[float, typer.Option(help="How far the neighbour is, 0-1.", rich_help_panel=MORE)]
ShowAttention = Annotated[bool, typer.Option(
    "--show-attention", help="Also draw where in the sound each word of the prompt is attended to (PNG).",
    rich_help_panel=OUTPUT)]


@dataclass(frozen=True)
class Takes:
    """How many sounds are made of a recipe, and which of them are kept."""

    candidates: int = 1
    keep_all: bool = False
    ranker: str | None = None
    swap: str | None = None                                      # another prompt, of the same structure
    variation_of: Recipe | None = None
    amount: float = 0.2
    attention: bool = False                                      # drawn beside the sound

    def check(self) -> "Takes":
        """Raises SettingsError for what cannot be meant."""
        check_candidates(self.candidates)
        if self.candidates == 1 and (self.keep_all or self.ranker):
            raise SettingsError("--keep-all and --ranker choose among several takes: say how many with --candidates.")
        if not 0 <= self.amount <= 1:
            raise SettingsError(f"An amount of {self.amount:g} is out of range; give 0 to 1.")
        if sum((self.candidates > 1, self.swap is not None, self.variation_of is not None)) > 1:
            raise SettingsError("--candidates, --swap and --variation-of cannot be combined; choose one of them.")
        if self.attention and (self.candidates > 1 or self.swap is not None or self.variation_of is not None):
            raise SettingsError("--show-attention is of one plain sound; leave out --candidates, --swap and --variation-of.")
        return replace(self, swap=None if self.swap is None else check_prompt(self.swap))

    def files(self, recipe: Recipe) -> list[Recipe]:
        """What becomes a file, of a recipe."""
        if self.swap is not None:
            return [recipe, replace(recipe, prompt=self.swap).check()]
        return [recipe.of(recipe.seed + k) for k in range(self.candidates if self.keep_all else 1)]

    def make(self, pipeline: "Pipeline", recipe: Recipe, paths: Sequence[Path], output: Output, label: str) -> None:
        """The sounds of a recipe, written to as many paths as `files` says."""
        if self.swap is not None:
            self._swap(pipeline, recipe, paths, output, label)
        elif self.variation_of is not None:
            self._vary(pipeline, recipe, paths[0], output, label)
        elif self.attention:
            self._draw(pipeline, recipe, paths[0], output, label)
        else:
            self._best(pipeline, recipe, paths, output, label)

    def _best(self, pipeline: "Pipeline", recipe: Recipe, paths: Sequence[Path], output: Output, label: str) -> None:
        began = time.perf_counter()
        with console.progress(label, output.quiet) as watch:
            made, kept = self.choose(partial(_generate, pipeline), pipeline, recipe, watch)
        for (k, told), path in zip(kept, paths, strict=True):
            deliver(pipeline, recipe.of(recipe.seed + k), made[k], 0, path, output, began, told)

    def choose(self, make: "Callable[[Recipe, Watch], Take]", pipeline: "Pipeline", recipe: Recipe, watch: "Watch",
               judge: "Callable[[Ranker], Ranker]" = lambda ranker: ranker,
               ) -> "tuple[list[Take], list[tuple[int, dict[str, Any]]]]":
        """The takes of a recipe, as `make` makes each, and which of them become files, with what is to be said of each.

        `judge` makes of the ranker the one that scores them.
        """
        if self.candidates == 1:
            return [make(recipe, watch)], [(0, {})]
        from audiogen import rank

        ranker = judge(rank.load_ranker(self.ranker, pipeline))
        made, scores = rank.candidates(make, ranker, recipe, self.candidates, watch)
        return made, self.kept(scores, ranker.name)

    def kept(self, scores: Sequence[float], ranker: str) -> list[tuple[int, dict[str, Any]]]:
        """Which candidates become files, and what is to be said of each."""
        from audiogen import rank

        best = rank.best(scores)
        told = [{"score": round(score, 6), "ranker": ranker, "candidates": self.candidates} for score in scores]
        return [(k, t | {"best": k == best}) for k, t in enumerate(told)] if self.keep_all else [(best, told[best])]

    def _swap(self, pipeline: "Pipeline", recipe: Recipe, paths: Sequence[Path], output: Output, label: str) -> None:
        from audiogen.edit.control import swap

        assert self.swap is not None
        began = time.perf_counter()
        with console.progress(label, output.quiet) as watch:
            made = swap(pipeline, order(recipe), self.swap, watch=watch)
        deliver(pipeline, recipe, made, 0, paths[0], output, began, {})
        other = replace(recipe, prompt=self.swap)
        deliver(pipeline, other, made, 1, paths[1], output, began, {"command": "generate --swap", "swap_of": recipe.prompt})

    def _vary(self, pipeline: "Pipeline", recipe: Recipe, path: Path, output: Output, label: str) -> None:
        from audiogen.edit.control import vary

        assert self.variation_of is not None
        began, source = time.perf_counter(), replace(recipe, seed=self.variation_of.seed, draft=self.variation_of.draft)
        with console.progress(label, output.quiet) as watch:
            made = vary(pipeline, order(source), recipe.seed, self.amount, watch)
        told = {"command": "generate --variation-of", "variation_of": source.seed, "amount": self.amount}
        deliver(pipeline, recipe, made, 0, path, output, began, told)

    def _draw(self, pipeline: "Pipeline", recipe: Recipe, path: Path, output: Output, label: str) -> None:
        from audiogen.edit.control import attention
        from audiogen.edit.places import middles
        from audiogen.plot import write_attention

        began, mel = time.perf_counter(), pipeline.config.mel
        with console.progress(label, output.quiet) as watch:
            made, words = attention(pipeline, order(recipe), watch)
        write_attention(beside(path, ATTENTION), [(w.word, w.map.numpy()) for w in words], middles(mel).numpy(),
                        made.audio[0].numpy(), mel.sample_rate, made.audio.shape[1] / pipeline.step, recipe.prompt)
        deliver(pipeline, recipe, made, 0, path, output, began, {})


def _generate(pipeline: "Pipeline", recipe: Recipe, watch: "Watch") -> "Generation":
    return pipeline.generate([recipe.prompt], recipe.settings, [recipe.seed], negatives=[recipe.negative], says=[recipe.say],
                             chosen=None if recipe.draft is None else [recipe.draft], watch=watch)


def order(recipe: Recipe) -> "Order":
    """What a recipe asks of the functions of audiogen.edit; of drafts that were not compared, the first."""
    from audiogen.edit.paint import Order

    return Order(recipe.prompt, recipe.settings, draft_seed(recipe.seed, recipe.draft or 0), recipe.negative, recipe.say)


def deliver(pipeline: "Pipeline", recipe: Recipe, made: "Generation", item: int, path: Path, output: Output, began: float,
            told: dict[str, Any]) -> None:
    """Write one of the sounds that were made, with all that it depends on."""
    full = replace(recipe, settings=made.settings, dtype=str(pipeline.dtype).removeprefix("torch."),
                   draft=made.drafts[item] if made.drafts else recipe.draft)
    tag = {"command": "generate"} | full.as_dict() | told
    output.deliver(path, made.audio[item], made.sample_rate, tag, time.perf_counter() - began)
