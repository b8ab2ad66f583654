"""The command line `c2fvl`: finds the command, runs it, and turns errors into one line."""

import argparse
import logging
import sys

from c2fvl.cli import data, demo, dicomweb, evaluation, inference, models, serve, training
from c2fvl.cli.exit_status import DONE, WRONG_CALL, Stopped, status_of_signal, stop_by_signals
from c2fvl.cli.options import PROGRAM, Commands, Parser
from c2fvl.cli.output import OneLineFormatter, say, say_error
from c2fvl.extensions import import_extension
from c2fvl.extras import missing_extra
from c2fvl.messages import did_you_mean, nearest_names
from c2fvl.version import __version__

GROUPS = (demo, inference, serve, dicomweb, training, evaluation, data, models)
"""Each has a function `add(commands)`; in this order the help lists the commands."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status, one of those of `cli/exit_status.py`."""
    with stop_by_signals():
        try:
            return _run(arguments)
        except Stopped as stopped:
            say(f"{PROGRAM}: {stopped}", error=True)
            return status_of_signal(stopped.name)


def _run(arguments: list[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = next((word for word in arguments if not word.startswith("-")), "")
    cli = parser(chosen)
    known = command_parsers(cli)
    first_words = {name.partition(" ")[0]: None for name in known}
    if chosen and chosen not in first_words:
        cli.error(f"there is no command {chosen!r}{nearest_names(chosen, first_words)}")
    options, rest = cli.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(options, "overrides")]
    if unknown:
        command = known.get(f"{chosen} {getattr(options, 'action', '')}".strip(), cli)
        near = did_you_mean(unknown[0], (name for action in command._actions for name in action.option_strings))
        command.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
    if options.command is None:
        cli.print_help()
        return DONE
    if rest:  # argparse takes no positional arguments after an option; key=value may stand anywhere
        options.overrides.extend(rest)
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, handlers=[handler])
    try:
        for module in options.allow_code:
            import_extension(module)
        return options.run(options)
    except BrokenPipeError:  # the reader of the output has closed it
        sys.stdout = None  # nothing is left to flush at the end
        return DONE
    except ModuleNotFoundError as error:
        remedy = missing_extra(error)
        if remedy is None:
            raise
        say_error(PROGRAM, ValueError(remedy))
        return WRONG_CALL
    except (ValueError, OSError) as error:
        say_error(PROGRAM, error)
        return WRONG_CALL


def parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands; a command `chosen` is the only one that gets its options, which saves time."""
    cli = Parser(
        prog=PROGRAM,
        description="Segmentation of medical images with the help of a report. Research use, not for diagnosis.",
    )
    cli.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = Commands(cli, chosen)
    for group in GROUPS:
        group.add(commands)
    return cli


def command_parsers(cli: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, by its name; that of a command in a group is "GROUP NAME"."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in cli._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                inner = command_parsers(sub)
                found |= {f"{name} {each}": one for each, one in inner.items()} if inner else {name: sub}
    return found
