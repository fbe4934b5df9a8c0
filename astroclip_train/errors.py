"""Errors that a user can cause: one sentence each, printed without a traceback, exit code 2."""

import importlib
from types import ModuleType

__all__ = ["AstroTrainError", "ConfigError", "DataError", "RunError", "require"]


class AstroTrainError(Exception):
    """An error whose message is one sentence for the user: what, where, expected what, what to do."""

    exit_code = 2
    shared = False  # whether every rank of a run has it, so that rank 0 alone tells it


class ConfigError(AstroTrainError, ValueError):
    """The configuration cannot be composed, validated or built; also a bad argument of a module, hence a ValueError."""


class DataError(AstroTrainError):
    """A file or store is missing, damaged, or not what its description says."""


class RunError(AstroTrainError):
    """A run directory, checkpoint or lease does not allow what was asked."""


def require(module: str, *, extra: str) -> ModuleType:
    """Imports an optional dependency where it is used, or names the extra that brings it.

    Raises:
        ConfigError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{module} is needed for this but cannot be imported ({error}): "
            f"install it with `pip install 'astro-train[{extra}]'`."
        ) from error
