"""All that the commands print, and what the library logs: words of files never control the terminal."""

import logging
import sys

from c2fvl.messages import LinesError, printable


def say(text: object, *, error: bool = False) -> None:
    """Print one line to the output stream, or to the error stream; whatever is not printable in it is shown."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout)


def say_lines(text: str) -> None:
    """Print lines that this program made, such as those of a table; each as `say` does."""
    for line in text.split("\n"):
        say(line)


def say_error(program: str, error: BaseException | str) -> None:
    """Print an error as one line, or a `LinesError` as its lines."""
    first, *others = error.lines if isinstance(error, LinesError) else (str(error),)
    say(f"{program}: {first}", error=True)
    for line in others:
        say(line, error=True)


class OneLineFormatter(logging.Formatter):
    """Makes one line of each message of the log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))
