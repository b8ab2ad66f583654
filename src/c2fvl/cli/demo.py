"""The command demo: what the program does, on films that it draws itself."""

import argparse
import json

from c2fvl.cli.options import Commands, add_json
from c2fvl.cli.output import say, say_lines


def add(commands: Commands) -> None:
    """Add the command of this module."""
    commands.add("demo", run_demo, "Segment three synthetic films with and without a report: begin here.", _options)


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "out", nargs="?", default="c2fvl-demo", help="folder for films and pictures (default: %(default)s)"
    )
    add_json(sub, "one line per film")


def run_demo(options: argparse.Namespace) -> int:
    """Run `c2fvl demo`; return its exit status."""
    from c2fvl.data.phantom.examples import MODEL
    from c2fvl.inference.demo import write_demo

    if not options.json:
        say("Three synthetic chest films with shadows that look alike. Only the report tells which are lesions.\n")
    first = None
    for shown in write_demo(options.out):
        first = first or shown
        scores = {
            "no report": shown.without_report, "its report": shown.with_report,
            "sides exchanged": shown.with_sides_exchanged,
        }  # fmt: skip
        if options.json:
            record = {"film": str(shown.film), "picture": str(shown.picture), "report": shown.report}
            say_lines(json.dumps(record | {f"dice_{name.replace(' ', '_')}": score for name, score in scores.items()}))
            continue
        say(f'{shown.film}: "{shown.report}"')
        say(f"  Dice of the mask: {', '.join(f'{name} {100 * score:.1f} %' for name, score in scores.items())}")
        say(f"  {shown.picture}")
    if not options.json:
        assert first is not None
        text = first.film.with_suffix(".txt")
        say("\nLook at the pictures. Then the same by hand, and with your own chest X-ray:")
        say(f'  c2fvl predict {first.film} --model {MODEL} --report "$(cat {text})" --overlay')
        say("  c2fvl predict chest.png --overlay")
    return 0
