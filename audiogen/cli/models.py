"""`audiogen models`: the models that have a short name."""

from dataclasses import asdict
from typing import Annotated

import typer

from audiogen.cli import console


def models(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line on stdout, for scripts.")] = False,
) -> None:
    """List the models with a short name: size, licence, and whether they are on this machine.

    `--model` takes these names, any hub name (owner/name) of the same layouts, or a folder, such as that of a
    training run. A model that is not here is fetched when it is first used.
    """
    from audiogen import files, hub

    rows = [(k, bool(files.packaged(k.name) or (k.repo and hub.cached(k.repo)))) for k in hub.KNOWN]
    if as_json:
        for known, here in rows:
            console.say_json(asdict(known) | {"here": here})
        return
    cells = [(k.name, f"{k.gigabytes:.1f} GB", "yes" if here else "no", k.licence, k.what, k.repo or "this package")
             for k, here in rows]
    console.table(("name", "size", "here", "licence", "what", "from"), cells, right=(1,))
