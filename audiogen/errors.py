"""The one family of errors that a user can cause; everything else is a bug and keeps its traceback."""


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
