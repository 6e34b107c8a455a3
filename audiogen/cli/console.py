"""What the terminal shows: progress on stderr, tables and JSON lines on stdout. The only user of Rich."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    out: Console
    err: Console

Show = Callable[[float, int], None]                              # (done, total)


def __getattr__(name: str) -> Any:
    """`out` and `err`, Rich's consoles on what stdout and stderr are now; Rich is loaded when they are first asked for."""
    if name not in ("out", "err"):
        raise AttributeError(name)
    from rich.console import Console

    file = sys.stderr if name == "err" else sys.stdout
    return Console(file=file, highlight=False, width=None if file.isatty() else 10_000)      # a pipe has no width


@contextmanager
def progress(label: str, quiet: bool = False, count: bool = False) -> Iterator[Show]:
    """A bar on stderr with the time left; yields watch(done, total). Until it is called the bar only moves.

    Nothing is shown if `quiet`, or where stderr is no terminal. `count` shows "3/200" beside the bar.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn() if count else TaskProgressColumn(),
               TimeElapsedColumn(), TextColumn("left"), Remaining()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def note(text: str, quiet: bool = False) -> None:
    """A sentence on stderr."""
    if not quiet:
        typer.echo(printable(text), err=True)


def say(text: str) -> None:
    """A line on stdout."""
    typer.echo(printable(text))


def say_json(data: dict[str, Any]) -> None:
    """A JSON line on stdout, at once."""
    typer.echo(json.dumps(data, ensure_ascii=True))
    sys.stdout.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """A table on stdout; the columns in `right` are aligned to the right. As wide as it needs to be where piped."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(*head, box=None, pad_edge=False, header_style="bold")
    for i in right:
        grid.columns[i].justify = "right"
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    sys.modules[__name__].out.print(grid)


def printable(text: str) -> str:
    """`text` without characters that would move the cursor, change colours or break a line."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
