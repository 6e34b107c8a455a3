"""`audiogen blend`: a sound between two prompts."""

import time
from dataclasses import replace
from typing import Annotated

import typer

from audiogen.cli import console, options
from audiogen.cli.edit import How, Prompt, shared
from audiogen.cli.output import targets
from audiogen.cli.takes import deliver, order
from audiogen.recipe import stem
from audiogen.settings import check_prompt


@shared
def blend(
    first: Prompt,
    second: Annotated[str, typer.Argument(metavar="OTHER", help="The other prompt.", show_default=False)],
    at: Annotated[float, typer.Option(help="0 is the first prompt, 1 the other.", rich_help_panel=options.SOUND)] = 0.5,
    duration: options.Duration = None,
    other_seed: Annotated[int | None, typer.Option(
        help="Noise of the other prompt, to go to as well.", show_default="the same", rich_help_panel=options.SOUND)] = None,
    how: How = options.NOTHING,
) -> None:
    """Make a sound between two prompts."""
    from audiogen.edit import control, paint

    paint.check_share(at, "place between two prompts")
    recipe = replace(how.recipe, prompt=first, settings=replace(how.recipe.settings, duration=duration)).check()
    other = check_prompt(second)
    name = stem(f"{recipe.prompt} {other}", recipe.seed)
    [path], kind = targets(how.out, [name], how.format, how.overwrite, how.output.pictures)
    pipeline = options.load(recipe.model, how.device, recipe.dtype, how.offline, how.output.quiet)
    began = time.perf_counter()
    with console.progress("blending", how.output.quiet) as watch:
        made = control.blend(pipeline, order(recipe), other, at, other_seed, watch)
    told = {"command": "blend", "other": other, "at": at} | options.given(other_seed=other_seed)
    deliver(pipeline, recipe, made, 0, path, replace(how.output, format=kind), began, told)
