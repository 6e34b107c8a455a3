"""The one family of errors that a user can cause; everything else is a bug and keeps its traceback, unless memory ran out."""

import re


class AudiogenError(Exception):
    """One readable sentence: what is wrong, where, and what to do. The command line prints it without a traceback."""


class ConfigError(AudiogenError):
    """A configuration that cannot be read: an unknown key, a wrong type, broken JSON or TOML."""


class CheckpointError(AudiogenError):
    """A model that is not there, or whose files do not fit."""


class AudioError(AudiogenError):
    """A sound file that cannot be read or written."""


class DataError(AudiogenError):
    """A dataset or a list of prompts that cannot be used."""


class SettingsError(AudiogenError):
    """A setting of a generation that makes no sense."""


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch, or the loader of libraries, says that memory ran out, on whatever device."""
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return True
    words = r"out of memory|can't allocate memory|not enough memory|[Cc]annot allocate memory|failed to map segment"
    return isinstance(error, RuntimeError | ImportError) and re.search(words, str(error)) is not None
