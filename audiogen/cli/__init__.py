"""The command line: `audiogen COMMAND`. Nothing here imports torch before a command needs it."""

import errno
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from audiogen import __version__
from audiogen.cli import console
from audiogen.cli.batch import batch
from audiogen.cli.blend import blend
from audiogen.cli.edit import edit, extend, inpaint, upscale
from audiogen.cli.evaluate import evaluate
from audiogen.cli.generate import generate
from audiogen.cli.info import info
from audiogen.cli.models import models
from audiogen.cli.train import train
from audiogen.errors import AudiogenError, out_of_memory

UsageError = typer.BadParameter.__bases__[0]                     # Click's, which Typer carries under changing names

app = typer.Typer(name="audiogen", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110})


class Command(TyperCommand):
    """A command whose help lists its options under headings; plain, for Rich's help takes twice as long to appear."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = "Arguments" if parameter.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"audiogen {__version__}")
        raise typer.Exit


@app.callback(epilog="audiogen COMMAND --help explains a command and shows examples.")
def root(
    version: Annotated[bool, typer.Option(
        "--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option(
        "--debug", help="Show where an error came from; allowed after the command too.")] = False,
) -> None:
    """Text to sound: generate, batch, edit, train, evaluate."""


GENERATE = """\b
Examples:
  audiogen generate "rain on a tin roof"
  audiogen generate "a dog barks twice" -o dog.flac --duration 4 --seed 7 --play
  audiogen generate "a bell" "a gong" --count 3 -o takes --spectrogram
  audiogen generate --like dog.flac --steps 50 -o dog-50.flac
  audiogen generate --variation-of dog.flac --amount 0.3
  audiogen generate "rain on leaves" --loop --candidates 4
  audiogen generate --timeline "0-6: rain on leaves; 4-9: thunder"
  audiogen generate "a dog barking in rain" --swap "a dog barking in wind"
  audiogen generate "a (loud:1.6) bell" --show-attention"""
BATCH = """\b
Examples:
  audiogen batch prompts.csv -o sounds --duration 5
  cat prompts.txt | audiogen batch - -o sounds --format flac
  torchrun --nproc-per-node 4 -m audiogen batch prompts.jsonl -o sounds"""
INFO = """\b
Example:
  audiogen info rain-on-a-tin-roof-7.wav --json"""
EDIT = """\b
Examples:
  audiogen edit street.wav "a street in heavy rain" --strength 0.6
  audiogen edit voice.flac "a robot speaks" --strength 0.4 --seed 3 -o robot.flac"""
INPAINT = """\b
Examples:
  audiogen inpaint walk.wav "a dog barks" --span 2.5-4 --span 7-7.8
  audiogen inpaint rain.wav "a dog barks in the rain" --span 2.5-4 --candidates 4
  audiogen inpaint walk.wav "birds sing" --band 2000-8000"""
EXTEND = """\b
Examples:
  audiogen extend sea.wav "waves on a beach" --seconds 8
  audiogen extend engine.wav "an engine starts" --before 2"""
UPSCALE = """\b
Examples:
  audiogen upscale old-tape.wav "waves on a beach"
  audiogen upscale dull.wav "a cymbal" --cutoff 4000"""
BLEND = """\b
Examples:
  audiogen blend "rain" "fire" --at 0.5
  audiogen blend "a violin" "a flute" --at 0.3 --duration 4 --seed 5 -o between.wav"""
TRAIN = """\b
Examples:
  audiogen train sounds --check
  audiogen train sounds -o my-model --preset small
  audiogen train sounds -o my-model --resume
  torchrun --nproc-per-node 4 -m audiogen train sounds -o my-model --preset base"""
EVALUATE = """\b
Examples:
  audiogen evaluate made --reference recordings
  audiogen evaluate --model my-model --data recordings --count 50"""

app.command(cls=Command, epilog=GENERATE)(generate)
app.command(cls=Command, epilog=BATCH)(batch)
app.command(cls=Command, epilog=EDIT)(edit)
app.command(cls=Command, epilog=INPAINT)(inpaint)
app.command(cls=Command, epilog=EXTEND)(extend)
app.command(cls=Command, epilog=UPSCALE)(upscale)
app.command(cls=Command, epilog=BLEND)(blend)
app.command(cls=Command, epilog=INFO)(info)
app.command(cls=Command)(models)
app.command(cls=Command, epilog=TRAIN)(train)
app.command(cls=Command, epilog=EVALUATE)(evaluate)


def main() -> None:
    """Read the command line and do it: the only place where errors become a sentence and an exit code."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")             # waiting longer, threads stall beside a busy program
    arguments = sys.argv[1:]
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in ours
    arguments = [a for a in ours if a != "--debug"] + arguments[len(ours) :]
    try:
        code = app(arguments, prog_name="audiogen", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())       # whoever read us has gone
            sys.exit(1)
        sentence = explain(error)
        if debug or sentence is None:
            raise
        if "\n" in sentence:                                     # the help, where no command is given
            typer.echo(sentence, err=True)
        else:
            console.note(f"audiogen: {sentence}")
        code = getattr(error, "exit_code", 1)
    if code == 130:
        console.note("Stopped.")
    sys.exit(code if isinstance(code, int) else 0)


def explain(error: Exception) -> str | None:
    """One sentence about what went wrong and what to do; None for a fault of the program itself."""
    if isinstance(error, AudiogenError):
        return str(error)
    if isinstance(error, UsageError.__bases__[0]):
        text = error.format_message()                            # type: ignore[attr-defined]
        command = getattr(getattr(error, "ctx", None), "command_path", "audiogen")
        return f"{text.rstrip('.')}; see `{command} --help`." if text and "\n" not in text else text
    if isinstance(error, OSError) and error.errno is not None:
        place = f" ({error.filename})" if error.filename else ""
        return {
            errno.ENOSPC: f"The disk is full{place}: free some space and run the same command again.",
            errno.EDQUOT: f"Your share of the disk is full{place}: free some space and run the same command again.",
            errno.EACCES: f"Permission denied{place}: choose another place, or change who may use it.",
            errno.EROFS: f"The file system is read-only{place}: choose another place.",
        }.get(error.errno, f"{os.strerror(error.errno)}{place}.")
    if isinstance(error, OSError) and "torchaudio" in str(error):            # 2.11.1 loads beside torch 2.13 or later alone
        return "The torchaudio that is installed does not fit its torch: pip install --upgrade torch torchaudio."
    if out_of_memory(error):
        return "Memory ran out: lower --duration (or --batch-size), choose a smaller model, or use --dtype bfloat16."
    return None
