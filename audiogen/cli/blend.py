"""`audiogen blend`: a sound between two prompts."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from audiogen.cli import console, options
from audiogen.cli.edit import How, Prompt, changing
from audiogen.cli.output import targets
from audiogen.cli.takes import Loop, deliver, order
from audiogen.recipe import Recipe, stem
from audiogen.words import read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from audiogen.diffusion.sampling import Watch
    from audiogen.pipeline import Generation
    from audiogen.rank import Ranker


@changing
def blend(
    first: Prompt,
    second: Annotated[str, typer.Argument(metavar="OTHER", help="The other prompt.", show_default=False)],
    at: Annotated[float, typer.Option(help="0 is the first prompt, 1 the other.", rich_help_panel=options.SOUND)] = 0.5,
    duration: options.Duration = None,
    loop: Loop = None,
    other_seed: Annotated[int | None, typer.Option(
        help="Noise of the other prompt, to go to as well.", show_default="the same", rich_help_panel=options.SOUND)] = None,
    how: How = options.NOTHING,
) -> None:
    """Make a sound between two prompts.

    Of several --candidates the one is kept that fits both prompts best, each counted as much as it is in the blend.
    """
    from audiogen.edit import control, paint

    paint.check_share(at, "place between two prompts")
    settings = replace(how.recipe.settings, duration=duration, loop=bool(loop))
    recipe = replace(how.recipe, prompt=first, settings=settings).check()
    other = replace(recipe, prompt=second, seed=other_seed or 0).check().prompt
    files = how.takes.files(recipe)
    names = [stem(f"{recipe.prompt} {other}", r.seed) for r in files]
    paths, kind = targets(how.out, names, how.format, how.overwrite, how.output.pictures)
    pipeline = options.load(recipe.model, how.device, recipe.dtype, how.offline, how.output.quiet, once=False)

    def seed_there(take: Recipe) -> int | None:                  # each candidate has its own noise at both ends
        return None if other_seed is None else other_seed + take.seed - recipe.seed

    def make(take: Recipe, watch: "Watch") -> "Generation":
        return control.blend(pipeline, order(take), other, at, seed_there(take), watch)

    began = time.perf_counter()
    with console.progress("blending", how.output.quiet) as watch:
        made, kept = how.takes.choose(make, pipeline, recipe, watch, lambda ranker: Between(ranker, other, at))
    for path, (k, more) in zip(paths, kept, strict=True):
        take = replace(recipe, seed=recipe.seed + k)
        told = {"command": "blend", "other": other, "at": at} | options.given(other_seed=seed_there(take)) | more
        deliver(pipeline, take, made[k], 0, path, replace(how.output, format=kind), began, told)


class Between:
    """A ranker of sounds between two prompts: the scores for each, counted as much as the prompt is.

    Of a ranker by embedding this is, but for a factor, the cosine with the point between the two sentences.
    """

    def __init__(self, ranker: "Ranker", other: str, at: float):
        self.name, self.ranker, self.other, self.at = ranker.name, ranker, read_weights(other).prompt, at

    def score(self, prompt: str, wave: "Tensor", rate: int) -> float:
        """How well the wave (S,) fits between the prompt and the other."""
        here, there = (self.ranker.score(p, wave, rate) for p in (prompt, self.other))
        return (1 - self.at) * here + self.at * there
