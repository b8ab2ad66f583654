"""What each command of `c2fvl` does with its options; what is heavy is imported inside."""

import argparse
from collections.abc import Callable
from typing import Any

PROGRAM = "c2fvl"


def load_named_model(options: argparse.Namespace) -> Any:
    """Return the model that the options name, its language model where they say it is."""
    from c2fvl.checkpoints.trained_model import load_model

    model = load_model(options.model, device=options.device)
    if options.text_model is not None:
        model = model.with_text_model(options.text_model)
    return model if options.trust is None else model.with_trust(options.trust)


def part_of(options: argparse.Namespace) -> Any:
    """Return the part of a data set that the options name, with the reports that they choose."""
    from c2fvl.data.part import Part

    text, seed = getattr(options, "text", "right"), getattr(options, "seed", 0)
    return Part(options.root, options.split, options.table, text, seed)


def compute_of(options: argparse.Namespace) -> Any:
    """Return what computes, as the options say."""
    from c2fvl.inference.compute import Compute

    return Compute(options.device, options.batch, options.workers)


TEXTS = (
    "right", "none", "paraphrase", "typing_errors", "zones_dropped", "count_wrong", "zone_off", "upside_down",
    "sides_exchanged", "patient_orientation", "constant", "shuffled",
)  # fmt: skip
"""The changes of `perturbations`, which takes longer to load than the help to print."""
A_MODEL = "name of a trained model (see `c2fvl models`), model folder or run folder"


def count(minimum: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` on."""

    def number(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text} is too small; expected is {minimum} or more")
        return int(text)

    return number


def _distance(text: str) -> tuple[float, float]:
    """Return the distance of rows and of columns that MM or MM,MM names."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 < number < float("inf") for number in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no distance; expected is MM above 0, or MM,MM for rows and columns"
        )
    return (numbers[0], numbers[-1])


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no length; expected is a number above 0")
    return number


def add_lengths(sub: argparse.ArgumentParser) -> None:
    """Add the options of lengths in millimetres."""
    sub.add_argument(
        "--spacing",
        type=_distance,
        metavar="MM[,MM]",
        help="distance of pixels, or of rows and of columns (default: what the files tell, else pixels)",
    )
    sub.add_argument(
        "--tolerance",
        type=_positive,
        action="append",
        metavar="LENGTH",
        help="of the normalised surface distance, in mm or pixels; may be given several times (default: 1 and 3)",
    )


def add_part(sub: argparse.ArgumentParser) -> None:
    """Add the model and the part of a data set to run it on."""
    sub.add_argument("model", help=A_MODEL)
    sub.add_argument("root", help="folder that holds Train_Folder, Val_Folder, …, or a csv table")
    add_split(sub)


def add_split(sub: argparse.ArgumentParser) -> None:
    """Add the options that choose a part of a data set."""
    sub.add_argument("--split", default="val", help="part to take the films from (default: %(default)s)")
    sub.add_argument("--table", help="caption table to use in place of <Split>_text.xlsx")


def add_text(sub: argparse.ArgumentParser) -> None:
    """Add the option of the report that each image is given."""
    sub.add_argument(
        "--text",
        default="right",
        choices=TEXTS,
        help="report each film is given; the changes are those of `c2fvl audit` (default: %(default)s)",
    )
    add_seed(sub)


def add_seed(sub: argparse.ArgumentParser) -> None:
    """Add the seed of the changes of the text."""
    sub.add_argument("--seed", type=count(0), default=0, help="seed of the changes of the text (default: %(default)s)")


def add_trust(sub: argparse.ArgumentParser) -> None:
    """Add the trust in reports."""
    sub.add_argument(
        "--trust",
        type=_fraction,
        help="from 0, the film alone, to 1, follow the report; for filmfirst (default: the model's own)",
    )


def _fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; expected is a number from 0 to 1")
    return number


def add_text_model(sub: argparse.ArgumentParser) -> None:
    """Add the folder of the language model."""
    sub.add_argument(
        "--text-model", metavar="DIR", help="where the language model of a network that reads sentences lies now"
    )


def _batch(text: str) -> int | None:
    return None if text == "auto" else count(1)(text)


def add_device(
    sub: argparse.ArgumentParser,
    *,
    batch: str,
    workers: int = 0,
    reading: str = "processes that read films; 0: a thread",
) -> None:
    """Add the options of what computes."""
    sub.add_argument("--device", default="cpu", help="where to compute: cpu or cuda (default: %(default)s)")
    sub.add_argument(
        "--batch",
        type=_batch,
        default=batch,
        metavar="NUMBER",
        help="films at once; auto: what suits the device (default: %(default)s)",
    )
    sub.add_argument(
        "--workers", type=count(min(workers, 1)), default=workers, help=f"{reading} (default: %(default)s)"
    )
