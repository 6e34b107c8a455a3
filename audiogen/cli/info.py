"""`audiogen info`: the recipe inside a sound."""

from pathlib import Path
from typing import Annotated, Any

import typer

from audiogen.cli import console


def info(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Sounds that audiogen made.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line on stdout, for scripts.")] = False,
) -> None:
    """Show what made a sound: its prompt, seed, model and settings, as they are stored in the file."""
    for path in files:
        data = _facts(path)
        if as_json:
            console.say_json(data)
        else:
            console.table(("", str(path)), [(k, f"{v:g}" if isinstance(v, float) else str(v))
                                            for k, v in data.items() if k != "file" and v is not None])


def _facts(path: Path) -> dict[str, Any]:
    import soundfile

    from audiogen.audio import read_recipe

    recipe = read_recipe(path)
    found = soundfile.info(str(path))
    return {"file": str(path)} | recipe | {"sample_rate": found.samplerate, "channels": found.channels,
                                           "seconds": round(found.frames / found.samplerate, 6)}
