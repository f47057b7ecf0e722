"""Errors that are the user's to mend: one clear line, a non-zero exit, no traceback."""

from __future__ import annotations

__all__ = ["ConfigError", "InputError", "NoDataError", "StoreError", "TailwatchError"]


class TailwatchError(Exception):
    """What was expected, what came and where, in one line.

    The command line prints it as ``tailwatch: error: <message>`` and exits with `exit_code`.
    """

    exit_code = 2


class InputError(TailwatchError):
    """A file or a stream that is not what it should be (foreign, empty, truncated, malformed)."""


class ConfigError(TailwatchError):
    """A setting, a spec or an option that is unknown, of the wrong type or out of range."""

    exit_code = 4


class StoreError(TailwatchError):
    """A store or a state database that cannot be read or written (version, permission, space)."""


class NoDataError(TailwatchError):
    """Nothing to work on where something was needed."""

    exit_code = 3
