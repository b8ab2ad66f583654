"""Options that several commands share, and what the program makes of them."""

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from c2fvl.messages import printable

PROGRAM = "c2fvl"
MODEL = "trained model: a name from `c2fvl models`, a model folder or a run folder"
ROOT = "data set: a folder that contains Train_Folder, Val_Folder, …, a csv table, or tar shards"
_TABLE = "caption table to use instead of <Split>_text.xlsx"


class Parser(argparse.ArgumentParser):
    """A parser of arguments that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and end the program with exit status 2."""
        choice = re.fullmatch(r"argument (\S+): invalid choice: (.+) \(choose from (.+)\)", message)
        if choice:
            name, given, known = choice.groups()
            message = f"{name} must be one of {known.replace(chr(39), '')}; got {given}"
        message = re.sub(r"^argument (\S+): ", r"\1 ", message)
        end = "" if message.endswith(("?", ".")) else "."
        self.exit(2, f"{self.prog}: {printable(message)}{end} See `{self.prog} --help`.\n")


class Commands:
    """The commands of a parser. Only the command `chosen` gets its options, all commands if it is None."""

    def __init__(self, parser: argparse.ArgumentParser, chosen: str | None, *, name: str = "COMMAND") -> None:
        self._parsers: Any = parser.add_subparsers(metavar=name, dest=name.lower(), required=name != "COMMAND")
        self._chosen = chosen

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        purpose: str,
        add_options: Callable[[argparse.ArgumentParser], None],
    ) -> None:
        """Add a command: `run` takes its options and returns the exit status."""
        sub = self._parsers.add_parser(name, help=purpose, description=purpose)
        if self._chosen in (None, name):
            add_options(sub)
            sub.add_argument("--verbose", action="store_true", help="print more messages")
            sub.add_argument(
                "--allow-code",
                action="append",
                default=[],
                metavar="MODULE",
                help="import this module of your own, which a model folder names as its network; may be repeated",
            )
            sub.set_defaults(run=run)

    def group(self, name: str, purpose: str) -> "Commands | None":
        """Add a command that has commands of its own, and return these; None if it is not chosen."""
        sub = self._parsers.add_parser(name, help=purpose, description=purpose)
        return Commands(sub, None, name="ACTION") if self._chosen in (None, name) else None


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return a function that reads a whole number of at least `minimum`."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}, got {text}")
        return int(text)

    return read


def fraction(text: str) -> float:
    """Return a number between 0 and 1."""
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _length(text: str) -> float:
    if not 0 < _number(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return float(text)


def _spacing(text: str) -> tuple[float, float]:
    """Return the distance between rows and between columns."""
    numbers = [_number(part) for part in text.split(",")]
    if len(numbers) not in (1, 2) or not all(0 < number < float("inf") for number in numbers):
        raise argparse.ArgumentTypeError(f"must be MM or MM,MM (rows, columns) with numbers above 0, got {text}")
    return (numbers[0], numbers[-1])


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|gpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, gpu, cuda, cuda:NUMBER or mps, got {text}")
    return "cuda" if text == "gpu" else text


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else whole_number(1)(text)


def add_number(sub: argparse.ArgumentParser, name: str, default: int, meaning: str, *, minimum: int = 1) -> None:
    """Add an option that is a whole number, with its default in the help."""
    sub.add_argument(name, type=whole_number(minimum), default=default, help=f"{meaning} (default: %(default)s)")


def add_choice(sub: argparse.ArgumentParser, name: str, choices: Sequence[str], default: str, meaning: str) -> None:
    """Add an option that is one of some words, with its default in the help."""
    sub.add_argument(name, default=default, choices=choices, help=f"{meaning} (default: %(default)s)")


def add_model_and_part(sub: argparse.ArgumentParser) -> None:
    """Add the arguments that name a model and the cases of a data set."""
    sub.add_argument("model", help=MODEL)
    sub.add_argument("root", help=ROOT)
    add_split(sub)


def add_lengths(sub: argparse.ArgumentParser) -> None:
    """Add the options of distances between surfaces."""
    sub.add_argument(
        "--spacing",
        type=_spacing,
        metavar="MM[,MM]",
        help="distance between pixels, or between rows and between columns (default: from the files, else in pixels)",
    )
    sub.add_argument(
        "--tolerance",
        type=_length,
        action="append",
        metavar="LENGTH",
        help="tolerance of the normalised surface distance, in mm or pixels; may be repeated (default: 1 and 3)",
    )


def add_split(sub: argparse.ArgumentParser, default: str = "val") -> None:
    """Add the options that choose the cases of a data set."""
    sub.add_argument("--split", default=default, help="train, val or test (default: %(default)s)")
    add_table(sub)


def add_table(sub: argparse.ArgumentParser) -> None:
    """Add the option of the caption table."""
    sub.add_argument("--table", help=_TABLE)


def add_report(sub: argparse.ArgumentParser) -> None:
    """Add the option that chooses the report of each case."""
    from c2fvl.data.perturbations import perturbations

    add_choice(
        sub,
        "--report",
        [perturbation.name for perturbation in perturbations(None)],
        "right",
        "report that is given with each image: right (the correct report), none, or a perturbation",
    )
    add_seed(sub)


def add_seed(sub: argparse.ArgumentParser) -> None:
    """Add the seed of the perturbations."""
    add_number(sub, "--seed", 0, "seed of the report perturbations", minimum=0)


def add_orientation(sub: argparse.ArgumentParser, what: str, *, default: str | None = "image") -> None:
    """Add the option of whose left "left" is; without a default it depends on the report."""
    from c2fvl.reports.zones import ORIENTATIONS

    said = default or "image for captions in the grammar of QaTa-COV19, patient for free text"
    sub.add_argument(
        "--orientation",
        default=default,
        choices=ORIENTATIONS,
        help=f'meaning of "left" {what}: left side of the patient or of the image (default: {said})',
    )


def add_trust(sub: argparse.ArgumentParser) -> None:
    """Add the trust in reports."""
    sub.add_argument(
        "--trust",
        type=fraction,
        help="probability that the report belongs to this image: 0 ignores it, 1 follows it; only for filmfirst "
        "(default: that of the model)",
    )


def add_text_model(sub: argparse.ArgumentParser) -> None:
    """Add the folder of the language model."""
    sub.add_argument(
        "--text-model", metavar="DIR", help="folder of the language model, for a network that reads sentences"
    )


def add_json(sub: argparse.ArgumentParser, what: str) -> None:
    """Add the option of machine-readable output."""
    sub.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def add_device(sub: argparse.ArgumentParser) -> None:
    """Add the device and the number of threads."""
    sub.add_argument(
        "--device",
        type=_device,
        default="auto",
        metavar="auto|cpu|gpu|cuda|mps",
        help="auto is the first of cuda, mps and cpu that there is; gpu is cuda; cuda:1 is the second GPU "
        "(default: auto)",
    )
    sub.add_argument("--threads", type=whole_number(1), help="CPU threads (default: one for each core that is free)")


def add_copy(sub: argparse.ArgumentParser) -> None:
    """Add the option of a changed copy of the model folder."""
    sub.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write a copy of the model folder with the result; models of the package are not changed themselves",
    )


def add_batch_size(sub: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add the batch size."""
    sub.add_argument(
        "--batch-size",
        type=_batch_size,
        default=default,
        metavar="NUMBER",
        help="images per batch; auto chooses it for the device (default: %(default)s)",
    )


def add_workers(sub: argparse.ArgumentParser) -> None:
    """Add the number of processes that read images."""
    add_number(sub, "--workers", 0, "processes that read images; 0 uses a thread", minimum=0)


def add_compute(sub: argparse.ArgumentParser, batch_size: str = "auto") -> None:
    """Add all options of what computes."""
    add_device(sub)
    add_precision(sub)
    add_batch_size(sub, batch_size)
    add_workers(sub)


def add_precision(sub: argparse.ArgumentParser) -> None:
    """Add the option of the number format."""
    from c2fvl.inference.compute import CHOICES

    meaning = "number format of the network; auto: bf16 where it is faster and gives the same scores, otherwise fp32"
    add_choice(sub, "--precision", CHOICES, "auto", meaning)


def device_of(options: argparse.Namespace) -> str:
    """Return the device that the options choose, and apply their number of threads."""
    import torch

    from c2fvl.devices import automatic_device

    torch.set_num_threads(threads_of(options))
    return automatic_device() if options.device == "auto" else str(options.device)


def threads_of(options: argparse.Namespace) -> int:
    """Return the number of CPU threads that the options choose."""
    from c2fvl.devices import automatic_threads

    return automatic_threads() if options.threads is None else int(options.threads)


def compute_of(options: argparse.Namespace) -> Any:
    """Return the `Compute` that the options describe."""
    from c2fvl.inference.compute import Compute

    return Compute(device_of(options), options.batch_size, options.workers, options.precision)


def part_of(options: argparse.Namespace) -> Any:
    """Return the `Part` of a data set that the options describe."""
    from c2fvl.data.part import Part

    report, seed = getattr(options, "report", "right"), getattr(options, "seed", 0)
    return Part(options.root, options.split, options.table, report, seed)


def load_named_model(options: argparse.Namespace, *, replacing: Collection[str] = (), device: str | None = None) -> Any:
    """Return the model that the options name, with the language model and the trust that they give.

    `replacing` as in `load_model`; `device` is another than that of the options.
    """
    from c2fvl.checkpoints.trained_model import load_model

    model = load_model(options.model, device=device or device_of(options), replacing=replacing)
    if options.text_model is not None:
        model = model.with_text_model(options.text_model)
    return model if options.trust is None else model.with_trust(options.trust)
