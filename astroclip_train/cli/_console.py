"""What the console commands share: errors as one sentence, exit codes, argument parsing that answers in our words."""

import argparse
import difflib
import errno
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from ..errors import AstroTrainError, ConfigError
from ..terminal import put, silence

__all__ = ["INTERRUPTED", "STOPPED", "Parser", "guard", "say"]

INTERRUPTED = 130
STOPPED = (130, 138, 140, 143)  # by Ctrl-C, SIGUSR1, SIGUSR2, SIGTERM: the same command goes on


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `ConfigError`s with the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing a usage line and leaving."""
        raise ConfigError(f"{message.rstrip('.')}: see {self.prog} --help.")

    def reject_unknown(self, unknown: Sequence[str]) -> None:
        """Raises for the first option that does not exist."""
        for word in unknown:
            options = [o for action in self._actions for o in action.option_strings]
            near = difflib.get_close_matches(word.split("=")[0], options, n=1)
            advice = f"did you mean {near[0]}?" if near else f"see {self.prog} --help."
            raise ConfigError(f"{word} is not an option of {self.prog}: {advice}")


def say(text: str) -> None:
    """One line for the user on standard error; nobody may be reading it."""
    put(text)


def reader_left(stream: TextIO) -> bool:
    """Whether the other end of a pipe is closed, as by `| head`."""
    asked = select.poll()
    asked.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


def guard(
    program: str, work: Callable[..., int], *args: Any, interrupted: str = "start it again to go on."
) -> int:
    """Runs a command and turns what goes wrong into an exit code.

    Returns:
        The command's own code; 2 after a user's error, told in one sentence; 130 after Ctrl-C. Bugs pass through.
    """
    try:
        return work(*args)
    except AstroTrainError as error:
        say(f"{program}: {error}")
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise  # Lightning turns Ctrl-C into SystemExit
        say(f"\n{program}: stopped by Ctrl-C; {interrupted}")
        return INTERRUPTED
    except BrokenPipeError:
        if not reader_left(sys.stdout):
            raise  # another pipe, such as that of a worker
        silence(sys.stdout)
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        where = f" {error.filename}" if error.filename else ""
        advice = "free space or choose another run.root, then start again."
        say(f"{program}: writing{where} failed ({error.strerror}): {advice}")
        return 2
